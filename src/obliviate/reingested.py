"""Re-ingested records: those of a dataset that were erased before, and have a tombstone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from obliviate.disk import absolute
from obliviate.errors import Tombstoned
from obliviate.feed import content_of
from obliviate.ledger.tombstones import Tombstones
from obliviate.options import choice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from obliviate.training import Trainer

Choice = Literal["exclude", "refuse"]
"""What becomes of records that were erased before: they are left out, or the whole dataset is."""


def tombstone_options(file: str | Path | None, reingested: str) -> dict[str, str]:
    """What a run keeps of the user's choice; empty where there are to be no tombstones.

    Raises:
        InvalidOption: There is no such choice.
    """
    hint = 'give "exclude" to leave out what was erased before, "refuse" to be told of it'
    chosen = choice(reingested, "reingested", get_args(Choice), hint)
    if file is None:
        return {}
    return {"file": str(absolute(file, "tombstones")), "reingested": chosen}


@dataclass(frozen=True, kw_only=True)
class Reingested:
    """What tombstones say of records that are to be trained on.

    Attributes:
        records: Those that have one. Sorted.
        contents: The tombstone that each record would have; None where none are kept.
    """

    records: NDArray[np.int64]
    contents: list[bytes] | None = None

    @classmethod
    def among(
        cls, trainer: Trainer, ids: NDArray[np.int64], options: Mapping[str, str]
    ) -> Reingested:
        """Look at records, each once.

        Args:
            trainer: To read them with.
            ids: Which. Shape (n,).
            options: See `tombstone_options`.

        Raises:
            Tombstoned: Some were erased before, and the run is to be told of it.
            TrainingFailed: The dataset raised.
        """
        none = np.array([], dtype=np.int64)
        if not options:
            return cls(records=none)
        tombstones = Tombstones(Path(options["file"]))
        try:
            known = tombstones.all()
            contents = [
                tombstones.hash_of(content_of(trainer.batch(ids[at : at + 1])))
                for at in range(len(ids))
            ]
        finally:
            tombstones.close()
        found = ids[[content in known for content in contents]]
        if len(found) and options["reingested"] == "refuse":
            raise Tombstoned(
                f"{len(found)} of {len(ids)} records were erased before, such as {found[0]}",
                hint='take them out of the data, or leave them out with reingested="exclude"',
            )
        return cls(records=found, contents=contents)
