"""The desk of a run: requests are taken, refused, planned and counted.

It reads and writes the ledger, and nothing else: neither the project nor its data, neither a state
nor torch. So it answers at once, on any machine that reaches the ledger.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from obliviate import clock
from obliviate.chain.custody import opened, refuse_outdated
from obliviate.desk.policy import due_date, policy_of
from obliviate.desk.queue import Queue
from obliviate.desk.subjects import record_ids, records_of_subjects
from obliviate.erasure.planner import left_of, planned
from obliviate.erasure.results import Status
from obliviate.errors import InvalidOption, UnknownExport, UnknownRequest
from obliviate.export import place_of
from obliviate.ledger import Ledger
from obliviate.ledger.marking import Marking
from obliviate.methods.calibrated import Calibrated
from obliviate.methods.deepobliviate import DeepObliviate
from obliviate.methods.registry import method_of, options_of
from obliviate.options import text, whole
from obliviate.recipe.subjects import named_once
from obliviate.text import READS_MORE
from obliviate.vault import VaultSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from numpy.typing import NDArray

    from obliviate.desk.policy import Policy
    from obliviate.erasure.plan import Plan
    from obliviate.ledger import ExportFacts, RequestFacts, RunFacts
    from obliviate.methods.method import Method
    from obliviate.recipe.subjects import Subject
    from obliviate.vault import Seal


def chosen_method(method: str | Method | None, run: RunFacts) -> Method:
    """The method that was asked for, or the best one for a run.

    Args:
        method: None for "calibrated" where the run was made with references, else "deepobliviate".
        run: What the ledger says of it.

    Raises:
        UnknownMethod, InvalidOption: There is none like that.
    """
    if method is None:
        method = Calibrated.name if run.references else DeepObliviate.name
    return method_of(method)


class Desk:
    """Takes requests for one run."""

    def __init__(self, ledger: Ledger, facts: RunFacts, place: str) -> None:
        """Sit down at a ledger.

        Args:
            ledger: Of the run; where the run is sealed, unlocked.
            facts: Of the run.
            place: Its name in messages.
        """
        self._ledger, self._facts, self._place = ledger, facts, place

    @classmethod
    @contextlib.contextmanager
    def at(cls, folder: Path, seal: Seal | None = None) -> Iterator[Desk]:
        """The desk of the run in a folder.

        Args:
            folder: Of the run.
            seal: The master key of a sealed vault; where it is remembered to be if None.

        Raises:
            RunMissing, RunDamaged, OtherFormat: There is no run that could be read.
            RunOutdated: Another ledger than this one last wrote to the vault.
            WrongKey, KeyMissing: The vault is sealed, and its key is another, or cannot be had.
        """
        ledger = Ledger(folder)
        try:
            ledger.check(names=("runs", "parts"))
            if VaultSettings.of(ledger.run().vault).seal:  # people are known under a sealed key
                ledger.unlock(opened(ledger, folder, seal).unwrapped)
            else:
                refuse_outdated(ledger, folder)
            yield cls(ledger, ledger.run(), str(folder))
        finally:
            ledger.close()

    def request(
        self,
        records: Iterable[int] | None = None,
        subjects: Iterable[Subject] | None = None,
        *,
        due: str | datetime | None = None,
        method: str | Method | None = None,
    ) -> RequestFacts:
        """Register a request; see `Run.request`."""
        deadline = due_date(due, clock.now())
        chosen, named = (
            chosen_method(method, self._facts),
            self.named(records, subjects, is_final=True),
        )
        left_of(self._ledger, self._facts.records, named)
        return self._ledger.requests.register(options_of(chosen), named, due=clock.stamp(deadline))

    def refuse(self, request: int, reason: str) -> RequestFacts:
        """Close a request that waits without carrying it out; see `Run.refuse`."""
        request = whole(request, "request", least=1)
        reason = text(reason, "reason", hint="say in words why it is refused; it is kept")
        known = self._ledger.requests.find(request)
        if known is None:
            raise UnknownRequest(
                f"{self._place} has no request {request}", hint="`obliviate queue` lists them"
            )
        if not self._ledger.requests.refuse(request, reason):
            raise UnknownRequest(
                f"request {request} is {known.state} and cannot be refused any more",
                hint="only requests that wait can",
            )
        return self._ledger.requests.request(request)

    def preview(
        self,
        records: Iterable[int] | None = None,
        subjects: Iterable[Subject] | None = None,
        method: str | Method | None = None,
    ) -> Plan:
        """What a request would touch and cost; nothing changes. See `Run.preview`."""
        chosen, named = chosen_method(method, self._facts), self.named(records, subjects)
        return planned(self._ledger, self._facts, named, chosen)

    def lift(
        self,
        records: Iterable[int] | None = None,
        subjects: Iterable[Subject] | None = None,
        *,
        reason: str,
    ) -> int:
        """Lift tombstones, where consent was given again; see `Run.lift`."""
        hint = "say in words why; it is kept"
        reason = text(reason, "reason", hint=hint)
        if not reason.strip():
            raise InvalidOption("the reason is blank", hint=hint)
        ids = record_ids(() if records is None else records, self._facts.records)
        people = {} if subjects is None else named_once(subjects)
        if not len(ids) and not people:
            raise InvalidOption("nobody is named", hint="give records=[...] or subjects=[...]")
        return Marking(self._ledger, self._facts).lift(ids, people, reason)

    def exports(self) -> list[ExportFacts]:
        """All exports there ever were, in order; see `Run.exports`."""
        return self._ledger.exports.all()

    def withdraw(self, place: str | Path) -> list[ExportFacts]:
        """Write down that what was exported to a place is nowhere any more; see `Run.withdraw`."""
        where = place_of(place)
        if not any(each.place == where.name for each in self._ledger.exports.outside()):
            raise UnknownExport(
                f"nothing that {self._place} exported is in {where.name}, as far as it knows",
                hint="`obliviate status` lists the exports; name the place as it does",
            )
        where.clean()
        card = where.card()
        if card is not None and card.run == self._ledger.name:
            raise InvalidOption(
                f"export {card.export} still lies in {where.name}",
                hint="delete it, and whatever was made of it, and call again",
            )
        return self._ledger.exports.withdraw(where.name)

    def queue(self, policy: Policy | None = None) -> Queue:
        """The requests that are not closed, what they will cost, and what is to be done now."""
        with self._ledger.understanding():
            return Queue.of(self._ledger, self._facts, policy_of(policy))

    def status(self) -> Status:
        """How the run stands."""
        ledger, facts = self._ledger, self._facts
        with ledger.understanding():
            entries = ledger.chain.entries()
            inexact = (entry.block for entry in entries if entry.guarantee != "exact")
            first, last = next(inexact, None), entries[-1]
            is_served = last.block >= facts.parts[0].length
            return Status(
                records=facts.records,
                erased=ledger.records.erased_count(),
                blocks=facts.blocks,
                blocks_done=last.block,
                guarantee=last.guarantee if is_served else None,
                digest=last.digest if is_served else None,
                first_approximate=first,
                seconds_to_settle=sum(entry.seconds for entry in entries[first:]) if first else 0.0,
                erasures=tuple(ledger.erasures.all()),
                condemned=len(ledger.objects.keys("condemned")),
                journal_head=ledger.journal.head(),
                caveat=READS_MORE if facts.fingerprint.get("reads") == "more" else None,
                base=facts.fingerprint.get("base"),
                given_up=sum(len(part.given_up) for part in facts.parts),
                evaluations={each.block: each.evaluation for each in entries if each.evaluation},
                exports=tuple(ledger.exports.all()),
                returned=len(Marking(ledger, facts).returned()),
            )

    def named(
        self,
        records: Iterable[int] | None,
        subjects: Iterable[Subject] | None,
        *,
        is_final: bool = False,
    ) -> NDArray[np.int64]:
        """The records that a request names, by themselves or by their people. Sorted.

        Args:
            records: Their ids.
            subjects: People, all of whose records are named.
            is_final: Whether they are to be erased: then indexes are held against their tables.

        Raises:
            UnknownRecord, UnknownSubject, InvalidOption: The request is wrong, or names nobody.
            RunDamaged: An index does not say what its table says.
        """
        ids = record_ids(() if records is None else records, self._facts.records)
        people = () if subjects is None else subjects
        theirs = records_of_subjects(
            people, self._ledger, self._facts, self._place, is_final=is_final
        )
        ids = np.union1d(ids, theirs)
        if not len(ids):
            raise InvalidOption(
                "the request names nobody", hint="give records=[...] or subjects=[...]"
            )
        return ids
