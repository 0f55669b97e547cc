"""The queue: requests that are not closed, what they will cost, and what is to be done now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from obliviate import clock
from obliviate.desk.policy import Policy, Step, Waiting, batches, latest_of, settle_by, steps
from obliviate.erasure.planner import Planner
from obliviate.ledger.facts import CARRIED_OUT, OPEN
from obliviate.methods.exact import Exact
from obliviate.methods.registry import method_from
from obliviate.recipe.parts import places_of

if TYPE_CHECKING:
    from obliviate.erasure.plan import Plan
    from obliviate.ledger import ExportFacts, Ledger, RequestFacts, RunFacts
    from obliviate.methods.method import Method


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
        exports: Models that were handed on and hold people who were erased since.
    """

    waiting: tuple[Queued, ...]
    unsettled: tuple[RequestFacts, ...]
    steps: tuple[Step, ...]
    seconds_alone: float
    seconds_together: float
    seconds_exact: float
    settle_by: str | None
    exports: tuple[ExportFacts, ...] = ()

    @property
    def seconds_saved(self) -> float:
        """What carrying them out together saves."""
        return self.seconds_alone - self.seconds_together

    @classmethod
    def of(cls, ledger: Ledger, run: RunFacts, policy: Policy) -> Queue:
        """The queue of a run, under a policy.

        However many requests wait, the ledger is asked a fixed number of times.
        """
        facts = ledger.requests.all(*OPEN, *CARRIED_OUT)
        open_ = [each for each in facts if each.state in OPEN]
        planner = Planner.of(ledger, run)
        named = ledger.requests.named(each.id for each in open_)
        places = places_of(run.parts, named.records, named.groups)

        def plan(rows: Any, method: Method) -> Plan:
            # whether anybody is left is found out when it is carried out, by those who ask too much
            its = named.records[rows], places.of(rows)
            return planner.plan(*its, method, is_checked=False)

        unsettled = [each for each in facts if each.state in CARRIED_OUT]
        waiting = [Waiting(id=each.id, due=_time(each.due), method=each.method) for each in open_]
        plans = [
            plan(named.of_any(numbers), method_from(method)) for method, numbers in batches(waiting)
        ]
        exact = plan(named.of_any(each.id for each in open_), Exact())
        dues = [_time(each.due) for each in unsettled]
        queued = tuple(
            Queued(
                request=each,
                plan=plan(named.of(each.id), method_from(each.method)),
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
                    now=_present(ledger, run),
                )
            ),
            seconds_alone=sum(each.plan.seconds for each in queued),
            seconds_together=sum(each.seconds for each in plans),
            seconds_exact=exact.seconds,
            settle_by=None if begin is None else clock.stamp(begin),
            exports=tuple(each for each in ledger.exports.outside() if each.holds_erased),
        )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _present(ledger: Ledger, run: RunFacts) -> datetime:
    """The time, but never before what was written down: a clock set back delays nothing."""
    days = ledger.journal.days_of_changes()
    times = [_time(text) for first_and_last in days for text in first_and_last]
    return max(clock.now(), latest_of(_time(run.made), times))
