"""When requests are carried out: the fast path at once, one exact replay before the deadline."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from obliviate.errors import InvalidOption
from obliviate.options import flag, real
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from obliviate.erasure.plan import Plan

DUE_DAYS = 30
"""The deadline of a request that names none: a month (GDPR, Art. 12(3))."""

MOST_DAYS = 36_500
"""A margin, or a deadline, of a century is a slip of the hand, and no calendar has to know it."""

LEAP_DAYS = 400
"""So long a run may lie untouched before what its next writer's clock says is doubted."""

_EXACT: Mapping[str, object] = {"name": "exact"}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What `work` does now and what it leaves for later.

    Attributes:
        margin_days: How long before the earliest deadline the exact replay is made; its expected
            duration comes on top.
        fast_first: Whether requests that ask for a fast method are carried out with it at once. If
            not, everything waits for the exact replay.
    """

    margin_days: float = 3.0
    fast_first: bool = True

    def __post_init__(self) -> None:
        hint = "give a number of days, 0 or more"
        margin = real(self.margin_days, "margin_days", least=0, most=MOST_DAYS, hint=hint)
        object.__setattr__(self, "margin_days", margin)
        object.__setattr__(self, "fast_first", flag(self.fast_first, "fast_first"))


def policy_of(policy: Policy | None) -> Policy:
    """A policy; the default one if None.

    Raises:
        InvalidOption: It is something else.
    """
    if policy is None or isinstance(policy, Policy):
        return policy or Policy()
    raise InvalidOption(
        f"policy is {shown(policy)}, no Policy", hint="give ob.Policy(margin_days=3), or None"
    )


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A request that waits, as a policy sees it.

    Attributes:
        id: Its number.
        due: Its deadline.
        method: Name and options of the method that it asks for.
    """

    id: int
    due: datetime
    method: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One pass over the chain, and why.

    Attributes:
        kind: "forget", or "settle" where no request waits.
        method: Name and options.
        requests: The numbers of the requests that it carries out.
        reason: In words.
    """

    kind: Literal["forget", "settle"]
    method: Mapping[str, object]
    requests: tuple[int, ...]
    reason: str


def batches(waiting: Sequence[Waiting]) -> list[tuple[Mapping[str, object], list[int]]]:
    """Requests that can be carried out in one pass, those of one method and its options."""
    found: dict[str, tuple[Mapping[str, object], list[int]]] = {}
    for each in waiting:
        same = found.setdefault(json.dumps(dict(each.method), sort_keys=True), (each.method, []))
        same[1].append(each.id)
    return list(found.values())


def settle_by(policy: Policy, dues: Sequence[datetime], seconds_exact: float) -> datetime | None:
    """When the exact replay has to begin; None where nothing waits for one."""
    if not dues:
        return None
    return min(dues) - timedelta(days=policy.margin_days, seconds=seconds_exact)


def steps(
    policy: Policy,
    waiting: Sequence[Waiting],
    unsettled: Sequence[datetime],
    *,
    plans: Sequence[Plan],
    seconds_exact: float,
    now: datetime,
) -> list[Step]:
    """What is to be done now.

    Args:
        policy: By which rules.
        waiting: Requests whose records are still in the model.
        unsettled: The deadlines of those whose records are out of it, though not exactly.
        plans: What each of `batches(waiting)` would touch and cost.
        seconds_exact: What one exact replay for all of them would take.
        now: The time.
    """
    begin = settle_by(policy, [*(each.due for each in waiting), *unsettled], seconds_exact)
    if begin is not None and begin <= now:
        kind: Literal["forget", "settle"] = "forget" if waiting else "settle"
        numbers = tuple(each.id for each in waiting)
        return [Step(kind=kind, method=_EXACT, requests=numbers, reason="a deadline is near")]
    if not policy.fast_first:
        return []
    return _passes(waiting, plans, seconds_exact)


def _passes(waiting: Sequence[Waiting], plans: Sequence[Plan], seconds_exact: float) -> list[Step]:
    """The passes for requests that are not to wait, as few as pay off."""
    exact: list[int] = []
    fast: list[Step] = []
    seconds, longest = 0.0, 0.0
    for (method, numbers), plan in zip(batches(waiting), plans, strict=True):
        if method["name"] == "exact":
            continue
        if plan.seconds_exact <= plan.seconds:
            exact += numbers
            longest = max(longest, plan.seconds_exact)  # one replay, from the first block on
        else:
            reason, seconds = "the fast path, at once", seconds + plan.seconds
            fast.append(Step(kind="forget", method=method, requests=tuple(numbers), reason=reason))
    if len(fast) + bool(exact) > 1 and seconds_exact <= seconds + longest:
        reason = "one exact replay for all takes no longer than a pass for each method"
        everybody = tuple(each.id for each in waiting)
        return [Step(kind="forget", method=_EXACT, requests=everybody, reason=reason)]
    if not exact:
        return fast
    # first: what is stitched before an exact replay would be replayed with it
    reason = "the exact replay takes no longer than the fast path"
    step = Step(kind="forget", method=_EXACT, requests=tuple(sorted(exact)), reason=reason)
    return [step, *fast]


def latest_of(made: datetime, times: Sequence[datetime]) -> datetime:
    """The latest of the times at which something was written down, as far as they can be believed.

    A leap of more than `LEAP_DAYS` is believed once something was written a day later still: a
    clock that was wrong for one call is not, and a run that lay untouched for years is from the
    second day on; until then the present says the same.

    Args:
        made: When the run was made.
        times: In ascending order.
    """
    latest = made
    for time in times:
        if time < latest:
            continue
        is_leap = time - latest > timedelta(days=LEAP_DAYS)
        if is_leap and times[-1] - time < timedelta(days=1):
            break
        latest = time
    return latest


def due_date(text: str | datetime | date | None, now: datetime) -> datetime:
    """A deadline: a time, the end of a day, or a month from now.

    Raises:
        InvalidOption: It is none, or it has passed.
    """
    if text is None:
        return now + timedelta(days=DUE_DAYS)
    hint = "give a day or a time to come, in ISO 8601, such as 2030-12-20 (its end, in UTC)"
    try:
        due = _moment(text)
    except (ValueError, TypeError, OverflowError):  # the last: beyond what a calendar knows
        raise InvalidOption(f"the due date {shown(text)} is no date", hint=hint) from None
    if due <= now:
        raise InvalidOption(f"the due date {shown(text)} has passed", hint=hint)
    if due > now + timedelta(days=MOST_DAYS):
        raise InvalidOption(f"the due date {shown(text)} is more than a century away", hint=hint)
    return due


def _moment(text: str | datetime | date) -> datetime:
    """A time in UTC; of a day, its end."""
    if isinstance(text, datetime):
        due = text
    else:
        said = text.isoformat() if isinstance(text, date) else text
        due = datetime.fromisoformat(said)
        if len(said.strip()) <= len("2030-12-20"):
            due += timedelta(days=1, seconds=-1)
    return (due if due.tzinfo else due.replace(tzinfo=UTC)).astimezone(UTC)
