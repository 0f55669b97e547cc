"""Requested: what a run's desk takes down and knows, by the ledger alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obliviate.desk.desk import Desk
from obliviate.run.followers import Counting, Requesting, Withdrawing
from obliviate.run.following import led_at_once

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.desk.policy import Policy
    from obliviate.desk.queue import Queue
    from obliviate.erasure.plan import Plan
    from obliviate.ledger import ExportFacts, Ledger, RequestFacts, RunFacts
    from obliviate.ledger.journal import JournalEntry
    from obliviate.methods.method import Method
    from obliviate.recipe.subjects import Subject


class Requested:
    """What is asked of a run, and what it answers without touching the chain.

    Attributes:
        folder: The run's.
        ledger: The run's.
        facts: What the ledger says of it.
    """

    folder: Path
    ledger: Ledger
    facts: RunFacts

    @property
    def desk(self) -> Desk:
        """Where requests are taken; it needs the ledger alone."""
        return Desk(self.ledger, self.facts, str(self.folder))

    def preview(
        self,
        records: Iterable[int] | None = None,
        subjects: Iterable[Subject] | None = None,
        method: str | Method | None = None,
    ) -> Plan:
        """What a request would touch and cost; nothing changes. See `forget` for the errors."""
        return self.desk.preview(records, subjects, method)

    @led_at_once(Requesting)
    def request(
        self,
        records: Iterable[int] | None = None,
        subjects: Iterable[Subject] | None = None,
        *,
        due: str | datetime | None = None,
        method: str | Method | None = None,
    ) -> RequestFacts:
        """Register a request, to be carried out later by `work`; the chain is not touched.

        Any process may do this at any time, also while another one writes to the run.

        Args:
            records: Ids of the records to erase.
            subjects: People, all of whose records are to be erased.
            due: The deadline, by which the model has to be exact: a day or a time in ISO 8601; a
                month from now if None.
            method: How to carry it out until then; see `forget`.

        Raises:
            UnknownRecord, UnknownSubject, UnknownMethod, InvalidOption: The request is wrong, or
                its deadline has passed.
            NothingLeft: It would erase every record.
        """
        return self.desk.request(records, subjects, due=due, method=method)

    def requests(self) -> list[RequestFacts]:
        """All requests there ever were, in order."""
        return self.ledger.requests.all()

    def excluded(self) -> NDArray[np.int64]:
        """The records that were left out before training. Sorted."""
        return self.ledger.records.excluded()

    def journal(self) -> list[JournalEntry]:
        """All that was written down of the run, from the first entry on."""
        return self.ledger.journal.entries()

    @led_at_once(Counting)
    def destroy_subject_key(self) -> None:
        """Forget how people are hashed: nobody can be found by name any more."""
        self.ledger.destroy_subject_key()

    @led_at_once(Counting)
    def lift(
        self,
        records: Iterable[int] | None = None,
        subjects: Iterable[Subject] | None = None,
        *,
        reason: str,
    ) -> int:
        """Lift tombstones, where consent was given again: the data may be trained on once more.

        In this run the records stay erased. They can come back as new records, by `extend` or in
        another run.

        Args:
            records: Erased records of this run; those of the same content and person in other runs
                go with them.
            subjects: People, all of whose tombstones are lifted, whatever run set them.
            reason: Why; it is kept. Do not name the person there.

        Returns:
            How many tombstones were lifted.

        Raises:
            UnknownRecord, InvalidOption: There is nothing that could be lifted.
            TombstonesLost, TombstonesDamaged: The file is away, or damaged.
        """
        return self.desk.lift(records, subjects, reason=reason)

    def exports(self) -> list[ExportFacts]:
        """All models that were handed on, in order.

        `holds_erased` of each says whether somebody who was erased since is held by it.
        """
        return self.desk.exports()

    @led_at_once(Withdrawing)
    def withdraw(self, place: str | Path) -> list[ExportFacts]:
        """Tell the run that what was exported to a place was destroyed, and is nowhere any more.

        Args:
            place: As it was given to `export`.

        Returns:
            The exports that are withdrawn by it.

        Raises:
            UnknownExport: There is none, as far as the run knows.
            InvalidOption: It still lies there.
        """
        return self.desk.withdraw(place)

    @led_at_once(Requesting)
    def refuse(self, request: int, reason: str) -> RequestFacts:
        """Close a request that waits without carrying it out, for a reason that is kept.

        Raises:
            UnknownRequest: There is none of that number, or it does not wait.
        """
        return self.desk.refuse(request, reason)

    def queue(self, policy: Policy | None = None) -> Queue:
        """The requests that are not closed, what they will cost, and what `work` would do now."""
        return self.desk.queue(policy)
