"""Which records a request names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.errors import InvalidOption, UnknownRecord, UnknownSubject
from obliviate.ledger.records import subject_hash
from obliviate.options import index_of, listed
from obliviate.recipe.subjects import named_once
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from obliviate.ledger import Ledger, RunFacts
    from obliviate.recipe.subjects import Subject


def record_ids(records: Iterable[int], total: int, what: str = "records") -> NDArray[np.int64]:
    """Record ids, sorted, each once.

    Raises:
        InvalidOption: Something is not an id.
        UnknownRecord: An id is not in the dataset.
    """
    hint = "give a list of record ids, such as [17, 4711]"
    given = _array(records)
    if given is None:
        given = _ids(listed(records, what, hint), what)
    unknown = np.unique(given[(given < 0) | (given >= total)])
    if len(unknown):
        some = ", ".join(map(shown, unknown[:5].tolist()))
        some += ", ..." if len(unknown) > 5 else ""  # noqa: PLR2004
        raise UnknownRecord(
            f"{what} that are not in the dataset: {some}",
            hint=f"ids run from 0 to {total - 1}: the index of the record in the dataset",
        )
    return np.unique(given.astype(np.int64))


def _array(records: Any) -> NDArray[Any] | None:
    """The ids as they were given, where that is an array of integers; it may be a long one."""
    is_plain = isinstance(records, np.ndarray) and records.ndim == 1 and records.dtype.kind in "iu"
    return records if is_plain else None


def _ids(records: list[Any], what: str) -> NDArray[Any]:
    is_plain = set(map(type, records)) <= {int}
    ids = records if is_plain else [_id(record, what) for record in records]
    limits = np.iinfo(np.int64)
    has_large = bool(ids) and not limits.min <= min(ids) <= max(ids) <= limits.max
    return np.array(ids, dtype=object if has_large else np.int64)


def _id(record: Any, what: str) -> int:
    # a mask is no list of ids, though its flags would pass for 0 and 1
    number = index_of(record)
    if number is None:
        raise InvalidOption(
            f"{what} holds {shown(record)}", hint="a record id is an int: its index in the dataset"
        )
    return number


def records_of_subjects(
    subjects: Iterable[Subject],
    ledger: Ledger,
    facts: RunFacts,
    place: str,
    *,
    is_final: bool = False,
) -> NDArray[np.int64]:
    """The records of some subjects, sorted.

    Args:
        subjects: Who.
        ledger: Where they are looked up.
        facts: Of the run.
        place: Its name in messages.
        is_final: Whether they are to be erased: then the tables are read as well as the indexes.

    Raises:
        InvalidOption: A subject is no string, int or UUID, or blank.
        UnknownSubject: A subject has no records, or the run knows of no subjects.
        RunDamaged: An index does not say what its table says.
    """
    named = named_once(subjects)
    if named:
        _check_named(ledger, facts, place)
    key = facts.subject_key or b""
    hashes = {subject_hash(name, key): given for name, given in named.items()}
    records, missing = ledger.records.of_subjects(hashes)
    if is_final:
        ledger.records.check_index(hashes, records)
    if missing:
        unknown = next(given for said, given in hashes.items() if said in missing)
        raise UnknownSubject(
            f"subject {shown(unknown)} has no records in {place}, or none any more",
            hint="check the spelling: subjects are kept as keyed hashes and cannot be listed; by "
            "records that were erased nobody is found",
        )
    return records


def _check_named(ledger: Ledger, facts: RunFacts, place: str) -> None:
    """See that people can be found by name at all."""
    if not ledger.records.has_subjects():
        raise UnknownSubject(
            f"{place} was made without subjects",
            hint="name record ids, or make the run with subjects=[...], one for each record",
        )
    if facts.subject_key is None:
        raise UnknownSubject(
            f"the subject key of {place} was destroyed: nobody can be found by name any more",
            hint="name record ids",
        )
