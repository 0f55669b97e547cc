"""Marking: the tombstones that a run sets, takes back, lifts, and compares itself with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from obliviate.errors import InvalidOption, TombstonesLost
from obliviate.ledger.tombstones import opened

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from obliviate.ledger import ErasureFacts, Ledger, RunFacts

_NOBODY = np.array([], dtype=np.int64)


class Marking:
    """The tombstones of one run; where it keeps none, nothing happens."""

    def __init__(self, ledger: Ledger, facts: RunFacts) -> None:
        self._ledger, self._facts = ledger, facts

    def check(self) -> None:
        """See that the file is there, and the one that the run was made with.

        Raises:
            TombstonesLost, TombstonesDamaged: It is not.
        """
        if self._facts.tombstones:
            with opened(self._facts.tombstones):
                pass

    def set(self, erasure: ErasureFacts) -> None:
        """Set the tombstones of an erasure, which may be set already.

        It is done after the erasure was written down and before it is carried out: nobody may find
        the records without a tombstone afterwards.
        """
        records = self._ledger.erasures.records_of(erasure.id)
        if self._facts.tombstones and len(records):
            marks = self._ledger.records.contents_of(records)
            with opened(self._facts.tombstones) as tombstones:
                tombstones.add(self._ledger.name, _name(erasure), marks)

    def take_back(self, erasure: ErasureFacts) -> None:
        """Remove the tombstones of an erasure that is given up."""
        if self._facts.tombstones:
            with opened(self._facts.tombstones) as tombstones:
                tombstones.take_back(self._ledger.name, _name(erasure))

    def returned(self) -> NDArray[np.int64]:
        """Records that were erased, though the ledger says that they are not: it is an older one.

        A record is one of them where this very run has set a tombstone for it and its content is
        still the same. Where the file is away nobody can tell, and none are found. Sorted.
        """
        if not self._facts.tombstones:
            return _NOBODY
        try:
            with opened(self._facts.tombstones) as tombstones:
                marks = tombstones.of_run(self._ledger.name)
        except TombstonesLost:
            return _NOBODY
        if not marks:
            return _NOBODY
        running = self._ledger.erasures.running()
        gone = self._ledger.records.erased(None if running is None else running.id)
        there = [record for record in marks if record < self._facts.records]
        suspects = np.setdiff1d(np.array(there, dtype=np.int64), gone)
        if not len(suspects):
            return _NOBODY
        now = self._ledger.records.contents_of(suspects)
        same = [record for record, mark in now.items() if mark == marks[record]]
        return np.array(sorted(same), dtype=np.int64)

    def lift(self, records: NDArray[np.int64], people: Collection[str], reason: str) -> int:
        """Lift tombstones, so that what they recognised may be trained on again.

        Args:
            records: Of this run.
            people: All of whose tombstones are lifted, whatever run set them.
            reason: Why; it is kept.

        Raises:
            InvalidOption: No tombstones are kept, or none stands for one of these.
        """
        if not self._facts.tombstones:
            raise InvalidOption(
                "the run keeps no tombstones", hint="there is nothing that could be lifted"
            )
        there = self._ledger.records.contents_of(records)
        with opened(self._facts.tombstones) as tombstones:
            # of what this run erased, the ledger itself does not know any more what it was
            marks = there | {
                record: mark
                for record, mark in tombstones.of_run(self._ledger.name).items()
                if record in set(records.tolist())
            }
            persons = {tombstones.person(each) for each in people}
            lifted = tombstones.lift(set(marks.values()), persons, reason)
        if not lifted:
            raise InvalidOption(
                "no tombstone stands for any of these",
                hint="name people as the runs that erased them do, or erased records of this run",
            )
        return lifted


def _name(erasure: ErasureFacts) -> str:
    return f"{erasure.id} {erasure.started}"
