"""Re-ingested records: those of a dataset that were erased before, and have a tombstone."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from obliviate.disk.paths import absolute
from obliviate.errors import InvalidOption, Tombstoned
from obliviate.ledger.tombstones import opened
from obliviate.options import choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from obliviate.training.protocol import BlockTrainer

Choice = Literal["exclude", "refuse"]
"""What becomes of records that were erased before: they are left out, or the whole dataset is."""

Recognised = Literal["person", "content"]
"""What a record is known by: its content and whose it is, where that is given; or its content."""

_READ_TWICE = 8


def tombstone_options(
    file: str | Path | None, reingested: str, recognised: str = "person"
) -> dict[str, str]:
    """What a run keeps of the user's choice; empty where there are to be no tombstones.

    Raises:
        InvalidOption: There is no such choice.
    """
    hint = 'give "exclude" to leave out what was erased before, "refuse" to be told of it'
    chosen = choice(reingested, "reingested", get_args(Choice), hint)
    hint = (
        'give "person" to know a record by its content and whose it is, "content" to know equal '
        "records of other people too"
    )
    by = choice(recognised, "recognised", get_args(Recognised), hint)
    if file is None:
        return {}
    place = str(absolute(file, "tombstones"))
    return {"file": place, "reingested": chosen, "recognised": by}


@dataclass(frozen=True, kw_only=True)
class Reingested:
    """What tombstones say of records that are to be trained on.

    Attributes:
        records: Those that have one. Sorted.
        contents: What each record is known by; None where no tombstones are kept.
        ids: The records that were looked at.
        options: Those of the run, which name the very file from now on.
    """

    records: NDArray[np.int64]
    contents: list[bytes] | None = None
    ids: NDArray[np.int64] | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def by_record(self) -> dict[int, bytes]:
        """What each record is known by, by its id."""
        if self.ids is None or self.contents is None:
            return {}
        return dict(zip(self.ids.tolist(), self.contents, strict=True))

    @classmethod
    def among(
        cls,
        trainer: BlockTrainer,
        ids: NDArray[np.int64],
        options: Mapping[str, str],
        people: Iterable[tuple[str, ...]] | None = None,
    ) -> Reingested:
        """Look at records, each once.

        Args:
            trainer: To read them with.
            ids: Which. Shape (n,).
            options: See `tombstone_options`.
            people: Whose each is, where that was given.

        Raises:
            InvalidOption: Their content cannot be recognised.
            Tombstoned: Some were erased before, and the run is to be told of it.
            TrainingFailed: The dataset raised.
        """
        none = np.array([], dtype=np.int64)
        if not options:
            return cls(records=none)
        _check_readable(trainer, ids[:_READ_TWICE])
        whose = people if people and options["recognised"] == "person" else repeat(())
        with opened(options) as tombstones:
            known = tombstones.known()
            contents = [
                tombstones.mark(trainer.reader.content(record), its)
                for record, its in zip(ids.tolist(), whose, strict=False)
            ]
            options = {**options, "identity": tombstones.identity}
        found = ids[[known.has(content) for content in contents]]
        if len(found) and options["reingested"] == "refuse":
            raise Tombstoned(
                f"{len(found)} of {len(ids)} records were erased before, such as {found[0]}",
                hint='take them out of the data, leave them out with reingested="exclude", or lift '
                "their tombstones where consent was given again",
            )
        return cls(records=found, contents=contents, ids=ids, options=options)


def _check_readable(trainer: BlockTrainer, ids: NDArray[np.int64]) -> None:
    for record in ids.tolist():
        if trainer.reader.content(record) != trainer.reader.content(record):
            raise InvalidOption(
                f"record {record}, read twice, gave two contents, so that its tombstone could not "
                "be recognised",
                hint="let the dataset draw its randomness from the global generators of torch, "
                "numpy and Python, which are seeded before each record; or keep no tombstones",
            )
