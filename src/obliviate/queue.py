"""The queue: requests that are not closed, what they will cost, and carrying out what is due."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from obliviate import clock
from obliviate.errors import (
    ConnectionLost,
    ForeignData,
    LeaseLost,
    RefusedMeanwhile,
    RunLocked,
    RunOutdated,
    StorageFailed,
    StorageFull,
    TombstonesLost,
    UnknownRequest,
)
from obliviate.ledger.facts import CARRIED_OUT, OPEN
from obliviate.options import text, whole
from obliviate.policy import Policy, Step, Waiting, batches, latest_of, settle_by, steps
from obliviate.residual import Exact
from obliviate.results import Failure
from obliviate.writer import method_from

if TYPE_CHECKING:
    from collections.abc import Generator

    from obliviate.ledger import Ledger, RequestFacts
    from obliviate.ledger.requests import Named
    from obliviate.plan import Plan
    from obliviate.planner import Planner
    from obliviate.progress import Event
    from obliviate.writer import Carried, Kind, Writer

_NOBODY = np.array([], dtype=np.int64)
_SETTLE = Step(kind="settle", method={"name": Exact.name}, requests=(), reason="all of it")
_NOBODYS_FAULT = (
    ConnectionLost,
    ForeignData,
    LeaseLost,
    RunLocked,
    RunOutdated,
    StorageFailed,
    StorageFull,
    TombstonesLost,
)
"""What stops every request, and not only the one at hand."""


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A request that waits, and what carrying it out by itself would mean.

    Attributes:
        request: What the ledger says of it.
        plan: What it would touch and cost alone, by the method that it asks for.
    """

    request: RequestFacts
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Queue:
    """How the requests of a run stand.

    Attributes:
        waiting: Requests whose records are still in the model.
        unsettled: Requests whose records are out of it, though not exactly.
        steps: What `work` would do now.
        seconds_alone: What the waiting requests would take one after the other.
        seconds_together: What they take in one pass for each method.
        seconds_exact: What one exact replay takes that closes all of them.
        settle_by: When that has to begin for the earliest deadline, ISO 8601; None where nothing
            is to be settled.
    """

    waiting: tuple[Queued, ...]
    unsettled: tuple[RequestFacts, ...]
    steps: tuple[Step, ...]
    seconds_alone: float
    seconds_together: float
    seconds_exact: float
    settle_by: str | None

    @property
    def seconds_saved(self) -> float:
        """What carrying them out together saves."""
        return self.seconds_alone - self.seconds_together

    @classmethod
    def of(cls, writer: Writer, policy: Policy) -> Queue:
        """The queue of a run, under a policy."""
        facts = writer.ledger.requests.all(*OPEN, *CARRIED_OUT)
        open_ = [each for each in facts if each.state in OPEN]
        planner = writer.planner()
        named = writer.ledger.requests.named(each.id for each in open_)
        unsettled = [each for each in facts if each.state in CARRIED_OUT]
        waiting = [Waiting(id=each.id, due=_time(each.due), method=each.method) for each in open_]
        plans = [
            _plan(planner, named.of_any(numbers), method_from(method).name)
            for method, numbers in batches(waiting)
        ]
        exact = _plan(planner, named.of_any(each.id for each in open_), Exact.name)
        dues = [_time(each.due) for each in unsettled]
        queued = tuple(
            Queued(
                request=each,
                plan=_plan(planner, named.of(each.id), str(each.method["name"])),
            )
            for each in open_
        )
        begin = settle_by(policy, [*(each.due for each in waiting), *dues], exact.seconds)
        return cls(
            waiting=queued,
            unsettled=tuple(unsettled),
            steps=tuple(
                steps(
                    policy,
                    waiting,
                    dues,
                    plans=plans,
                    seconds_exact=exact.seconds,
                    now=_present(writer),
                )
            ),
            seconds_alone=sum(each.plan.seconds for each in queued),
            seconds_together=sum(each.seconds for each in plans),
            seconds_exact=exact.seconds,
            settle_by=None if begin is None else clock.stamp(begin),
        )


def refused(ledger: Ledger, request: int, reason: str, place: str) -> RequestFacts:
    """Close a request that waits without carrying it out; see `Run.refuse`.

    Args:
        ledger: Whose request.
        request: Its number.
        reason: Why, in words.
        place: The run's, for messages.
    """
    request = whole(request, "request", least=1)
    reason = text(reason, "reason", hint="say in words why it is refused; it is kept")
    known = ledger.requests.find(request)
    if known is None:
        raise UnknownRequest(
            f"{place} has no request {request}", hint="`obliviate queue` lists them"
        )
    if not ledger.requests.refuse(request, reason):
        raise UnknownRequest(
            f"request {request} is {known.state} and cannot be refused any more",
            hint="only requests that wait can",
        )
    return ledger.requests.request(request)


@dataclass
class Working:
    """What `work` has come to.

    Attributes:
        carried: What was carried out, in order.
        failed: What could not be.
    """

    carried: list[Carried] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    def step(self, writer: Writer, step: Step) -> Generator[Event, None, None]:
        """Carry a step out.

        Requests that cannot be carried out together are tried in halves, until those are left that
        cannot be carried out by themselves: these alone go on waiting.
        """
        method, groups = method_from(step.method), [step.requests]
        while groups:
            numbers = writer.ledger.requests.waiting(groups.pop())
            if step.requests and not numbers:
                continue  # refused meanwhile, or carried out by another process
            named = writer.ledger.requests.records_of(numbers) if numbers else _NOBODY
            try:
                done = yield from writer.erasing(step.kind, named, method, requests=numbers)
            except RefusedMeanwhile:
                groups.append(numbers)
            except _NOBODYS_FAULT:
                raise
            except Exception as error:
                half = len(numbers) // 2
                if half:
                    groups += [numbers[half:], numbers[:half]]
                else:
                    self.failed.append(Failure(requests=numbers, error=error))
            else:
                self.carried.append(done)


def working(
    writer: Writer, policy: Policy, *, everything: bool = False
) -> Generator[Event, None, Working]:
    """Carry out what is to be done now; see `Run.work`."""
    come = Working()
    resumed = yield from writer.finishing()
    queue = Queue.of(writer, policy)
    chosen = _everything(queue) if everything else queue.steps
    try:
        for step in chosen:
            yield from come.step(writer, step)
        if everything and come.failed:  # whoever is left may have kept the chain from being exact
            yield from come.step(writer, _SETTLE)
    except _NOBODYS_FAULT as error:
        if not come.carried:
            raise
        come.failed.append(Failure(requests=(), error=error))
    if resumed is not None and resumed.error is not None:
        tried = {number for step in chosen for number in step.requests}
        left = tuple(number for number in resumed.requests if number not in tried)
        if left or not resumed.requests:
            come.failed.insert(0, Failure(requests=left, error=resumed.error))
    come.carried = [each for each in come.carried if each.number is not None]
    return come


def _everything(queue: Queue) -> tuple[Step, ...]:
    numbers = tuple(each.request.id for each in queue.waiting)
    kind: Kind = "forget" if numbers else "settle"
    return (Step(kind=kind, method={"name": Exact.name}, requests=numbers, reason="all of it"),)


def _plan(planner: Planner, named: Named, method: str) -> Plan:
    # whether anybody is left is found out when it is carried out, by those who ask too much
    return planner.plan(named.records, named.blocks, method, is_checked=False)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _present(writer: Writer) -> datetime:
    """The time, but never before what was written down: a clock set back delays nothing."""
    days = writer.ledger.days_of_changes()
    times = [_time(text) for first_and_last in days for text in first_and_last]
    return max(clock.now(), latest_of(_time(writer.facts.made), times))
