"""Subjects: the people that records belong to, and the one spelling under which each is known.

A request names a person as somebody typed the name, years after the data was written. So case, the
two Unicode forms of an accented letter and surrounding blanks make no difference, and a number is
the same as its digits. Two spellings that fall together are one person.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from obliviate.errors import InvalidOption
from obliviate.options import index_of, listed
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from torch.utils.data import Dataset

    Subject = str | int | UUID
    """How a person can be named."""
    Given = Iterable[Subject | Iterable[Subject] | None]
    """Whose each record is: one person's, several people's, or nobody's."""
    GivenReference = Dataset[Any] | tuple[Dataset[Any], Given]
    """References, or those and whose each of them is."""

_ALLOWED = "a subject is a string, an int or a UUID"


def spelled(subject: Any) -> str:
    """The one spelling of a subject: without surrounding blanks, in one case and Unicode form.

    Source: Unicode 15, D145, canonical caseless matching.

    Raises:
        InvalidOption: It is no string, int or UUID, or it is blank.
    """
    text = _text(subject)
    if text is None:
        raise InvalidOption(f"subjects holds {shown(subject)}", hint=f"{_ALLOWED}")
    name = _folded(text)
    if not name:
        raise InvalidOption(
            f"subjects holds {shown(subject)}, which names nobody", hint="give a name"
        )
    return name


def _text(subject: Any) -> str | None:
    if isinstance(subject, str):
        return str.__str__(subject)
    if isinstance(subject, UUID):
        return str(subject)
    number = index_of(subject)
    with contextlib.suppress(ValueError):  # too many digits to be written down
        return None if number is None else str(number)
    return None


def _folded(text: str) -> str:
    text = text.strip()
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def named_once(subjects: Any) -> dict[str, Any]:
    """The people that a request names: the spelling of each, and how it was given.

    Raises:
        InvalidOption: It is no list, or something in it names nobody.
    """
    people = listed(subjects, "subjects", hint=f"give a list, such as [{shown(subjects)}]")
    return {spelled(each): each for each in people}


@dataclass(frozen=True)
class Subjects:
    """Whose each record is.

    Attributes:
        first: The first person of each record, spelled; None where it is nobody's.
        further: The others of those few records that belong to several, by place.
    """

    first: list[str | None]
    further: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Any, records: int) -> Subjects:
        """Whose each record is, as it was given.

        Args:
            given: One entry for each record, in their order: a string, an int or a UUID, a tuple, a
                list or a set of them, or None. A blank name is nobody's too, as in a table.
            records: How many there are.

        Raises:
            InvalidOption: It is something else.
        """
        _check_form(given, records)
        known: dict[str, str] = {}  # most records share their person with others
        first: list[str | None] = []
        further: dict[int, tuple[str, ...]] = {}
        for record, entry in enumerate(given):
            if type(entry) is str and entry in known:
                first.append(known[entry])
                continue
            people = _people(entry, record)
            first.append(people[0] if people else None)
            if len(people) > 1:
                further[record] = people[1:]
            elif people and type(entry) is str:
                known[entry] = people[0]
        if len(first) != records:
            raise _miscounted(len(first), records)
        return cls(first, further)

    def __len__(self) -> int:
        return len(self.first)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """The people of each record."""
        for record, person in enumerate(self.first):
            yield () if person is None else (person, *self.further.get(record, ()))

    def names(self) -> Iterator[str]:
        """All people, each once, in the order in which they come."""
        several = (person for others in self.further.values() for person in others)
        yield from dict.fromkeys([*filter(None, self.first), *several])

    def without(self, places: Collection[int]) -> Subjects:
        """The same, with nobody at some places."""
        first = [None if at in places else person for at, person in enumerate(self.first)]
        return Subjects(first, {at: who for at, who in self.further.items() if at not in places})

    def part(self, start: int, records: int) -> Subjects:
        """The same of some records: so many from a place on."""
        stop = start + records
        further = {at - start: who for at, who in self.further.items() if start <= at < stop}
        return Subjects(self.first[start:stop], further)


def _check_form(given: Any, records: int) -> None:
    hint = f"give a list with one entry for each record: {_ALLOWED}, a tuple of them, or None"
    is_list = hasattr(given, "__len__") and isinstance(given, Iterable)
    if not is_list or isinstance(given, str | bytes | bytearray | Mapping | Set):
        said = shown(given) if isinstance(given, str | bytes) else f"a {type(given).__name__}"
        raise InvalidOption(f"subjects is {said}, no list in the order of the records", hint=hint)
    if getattr(given, "ndim", 1) != 1:
        raise InvalidOption(
            f"subjects is an array of {given.ndim} dimensions, not of one", hint=hint
        )
    if len(given) != records:
        raise _miscounted(len(given), records)


def _miscounted(found: int, records: int) -> InvalidOption:
    return InvalidOption(
        f"there are {found} subjects for {records} records",
        hint="give one for each record, None for those that are nobody's",
    )


def _people(entry: Any, record: int) -> tuple[str, ...]:
    if entry is None:
        return ()
    several = entry if isinstance(entry, tuple | list | Set) else (entry,)
    found = [_text(each) for each in several]
    if None in found:
        odd = list(several)[found.index(None)]
        raise InvalidOption(
            f"subjects holds {shown(odd)} for record {record}",
            hint=f"{_ALLOWED}; give several in a tuple, and None for nobody",
        )
    spellings = [name for text in found if text is not None and (name := _folded(text))]
    # a set has no order of its own that would be the same next time
    return tuple(dict.fromkeys(sorted(spellings) if isinstance(entry, Set) else spellings))
