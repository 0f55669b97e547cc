"""The card of an export: what the model is, and what it reflects; never whom."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from obliviate.errors import InvalidOption, RunDamaged
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from obliviate.ledger.facts import Guarantee

CARD_NAME = "obliviate.json"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What lies beside an exported model.

    Attributes:
        run: What tells the run from all others, and its copies not from itself.
        export: The number of the export in the run's ledger.
        form: In what form the model is.
        digest: Of the run's model: what `Run.digest` said.
        state_digest: The sha256 of all that the module's state dict holds; the same, where the run
            keeps all of it.
        guarantee: Of the model: "exact" or "approximate".
        caveat: What the guarantee does not cover, where the recipe declares that.
        blocks: After how many blocks of training.
        erasures: The erasures that it reflects, by their numbers in the ledger.
        requests: The requests that it reflects, by theirs.
        journal_head: The hash of the journal's last entry at that time.
        made: When, ISO 8601 in UTC.
        version: Of the program that wrote it.
        files: The sha256 of every file, in hex, by its name.
    """

    run: str
    export: int
    form: str
    digest: str
    state_digest: str
    guarantee: Guarantee
    caveat: str | None
    blocks: int
    erasures: tuple[int, ...]
    requests: tuple[int, ...]
    journal_head: str
    made: str
    version: str
    files: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    @classmethod
    def of(cls, data: bytes, where: str) -> Self:
        """The card of some bytes.

        Raises:
            RunDamaged: They are no card.
        """
        try:
            values: dict[str, Any] = json.loads(data)
            card = cls(
                **{each.name: values[each.name] for each in fields(cls)}
                | {name: tuple(values[name]) for name in ("erasures", "requests")}
            )
            texts = (card.run, card.form, card.digest, card.state_digest, *card.files)
            if not all(isinstance(each, str) for each in (*texts, *card.files.values())):
                raise TypeError("a text is none")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunDamaged(
                f"the card {CARD_NAME} in {shown(where)} is not what was written ({error})",
                hint="export the model again, to another place",
            ) from error
        return card


def check_free(where: str, card: Card | None, names: Collection[str], run: str) -> None:
    """See that an export may take a place: nothing is there, or an earlier one of the same run.

    Args:
        where: The place, for messages.
        card: What lies there says that it is.
        names: The names of all files there.
        run: The run.

    Raises:
        InvalidOption: Something else is there.
    """
    hint = "give a place that is new or empty, or one that this run was exported to before"
    if card is not None and card.run != run:
        raise InvalidOption(f"{where} holds the export of another run", hint=hint)
    known = set() if card is None else {CARD_NAME, *card.files}
    others = sorted(set(names) - known)
    if others:
        said = "no export of this run but other files" if card is None else "other files, too"
        raise InvalidOption(f"{where} holds {said}, such as {shown(others[0])}", hint=hint)
