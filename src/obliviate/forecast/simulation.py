"""Simulation: a year of requests to forget, served by one worker; what it costs and who waits.

Requests arrive at random, each for records of uniformly random blocks in every epoch. The worker is
one process. Whatever waits when it is free is carried out in one pass: the fast path goes back some
epochs, and replays some blocks from each affected one on; what lies before and holds the records is
destroyed. Every so many days the account is settled: what waits is first forgotten fast, then one
exact replay from the first block that is only approximate makes everybody exact, those included who
asked meanwhile. A worker that is "exact only" lets everything wait for that.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from obliviate.errors import InvalidOption
from obliviate.forecast.costs import check_positive
from obliviate.forecast.requests import DAY, DAYS_A_YEAR, HOUR, Replays

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from obliviate.forecast.costs import Costs
    from obliviate.forecast.requests import Arrivals

_SHORTEST = 60.0
_PERCENTILES = (50, 95, 99, 100)


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """How the worker goes about it.

    Attributes:
        every_days: The account is settled every so many days.
        is_fast: Whether requests are first carried out fast; else they wait to be settled.
    """

    every_days: float
    is_fast: bool = True

    def __post_init__(self) -> None:
        check_positive("the number of days between settlings", self.every_days)
        if self.every_days * DAY < _SHORTEST:
            raise InvalidOption(
                f"settling every {self.every_days} days is more often than every minute",
                hint="give days, as in 0.5 or 7",
            )


@dataclass(frozen=True, kw_only=True)
class Waits:
    """How long requests waited, in seconds: percentiles, and the longest."""

    p50: float
    p95: float
    p99: float
    longest: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What became of the requests in one way of serving them.

    Attributes:
        blocks: How many blocks an epoch is cut into.
        every_days: How often it is settled.
        is_fast: Whether requests are first carried out fast.
        requests: How many came.
        fast_passes: How many fast passes there were: requests that wait together share one.
        settlings: How many exact replays there were.
        fast_seconds: Of work for each request, in fast passes.
        settling_seconds: Of work for each request: its share of the exact replays.
        blocks_replayed: For each request, in both, gaps that are bridged included.
        to_forget: From the receipt to a model without the trace; None where nobody asked.
        to_exact: From the receipt to a model that is exact; None where nobody asked.
        exact_in_time: The share of the requests that are exact when they are due.
        longest_settling_seconds: The longest exact replay.
        machine_hours: Of work in a year.
        disk_bytes: The size of the chain; None where it is not known.
    """

    blocks: int
    every_days: float
    is_fast: bool
    requests: int
    fast_passes: int
    settlings: int
    fast_seconds: float
    settling_seconds: float
    blocks_replayed: float
    to_forget: Waits | None
    to_exact: Waits | None
    exact_in_time: float
    longest_settling_seconds: float
    machine_hours: float
    disk_bytes: float | None

    @property
    def seconds_per_request(self) -> float:
        """Of work for each request, in all."""
        return self.fast_seconds + self.settling_seconds


@dataclass(frozen=True, kw_only=True)
class Trade:
    """Disk for time: what keeping some epochs in full takes, and what it spares.

    Attributes:
        blocks: How many blocks an epoch is cut into.
        keep: Of how many of the last epochs every update is kept.
        disk_bytes: The size of the chain; None where it is not known.
        fast_seconds: Forgetting one request fast.
        settling_seconds: The exact replay after that.
    """

    blocks: int
    keep: int
    disk_bytes: float | None
    fast_seconds: float
    settling_seconds: float


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a way of serving must keep to.

    Attributes:
        forget_seconds: The 99th percentile of the time to forget, at most.
        due_seconds: When a request is due, after its receipt.
        exact_in_time: The share of requests that are exact by then, at least.
        disk_bytes: The size of the chain, at most; None for any.
    """

    forget_seconds: float = DAY
    due_seconds: float = 30 * DAY
    exact_in_time: float = 1.0
    disk_bytes: float | None = None

    def __post_init__(self) -> None:
        check_positive("the limit on the time to forget", self.forget_seconds)
        check_positive("the time until a request is due", self.due_seconds)
        if self.disk_bytes is not None:
            check_positive("the limit on the disk", self.disk_bytes)
        if not 0 <= self.exact_in_time <= 1:
            raise InvalidOption(
                f"the share of requests that are exact in time is {self.exact_in_time}",
                hint="give a share between 0 and 1",
            )

    def allow(self, forecast: Forecast) -> bool:
        """Whether a way of serving keeps to them."""
        return (
            forecast.to_forget is not None
            and forecast.to_forget.p99 <= self.forget_seconds
            and forecast.exact_in_time >= self.exact_in_time
            and (self.disk_bytes is None or (forecast.disk_bytes or 0) <= self.disk_bytes)
        )


def forecasts(
    requests: Arrivals, costs: Iterable[Costs], rhythms: Sequence[Rhythm], limits: Limits
) -> tuple[Forecast, ...]:
    """Every way of serving the same requests."""
    return tuple(simulate(requests, each, rhythm, limits) for each in costs for rhythm in rhythms)


def simulate(requests: Arrivals, costs: Costs, rhythm: Rhythm, limits: Limits) -> Forecast:
    """Serve the requests in one way, until the last of them is exact."""
    worker = _Worker(requests, costs)
    worker.serve(rhythm)
    count = max(1, len(worker.times))
    to_exact = worker.exact_at - requests.seconds
    return Forecast(
        blocks=costs.blocks,
        every_days=rhythm.every_days,
        is_fast=rhythm.is_fast,
        requests=len(worker.times),
        fast_passes=len(worker.fast),
        settlings=len(worker.exact),
        fast_seconds=sum(worker.fast) / count,
        settling_seconds=sum(worker.exact) / count,
        blocks_replayed=worker.replayed / count,
        to_forget=_waits(worker.forgotten_at - requests.seconds),
        to_exact=_waits(to_exact),
        exact_in_time=float(np.mean(to_exact <= limits.due_seconds)) if worker.times else 1.0,
        longest_settling_seconds=max(worker.exact, default=0.0),
        machine_hours=sum(worker.fast + worker.exact) / HOUR * DAYS_A_YEAR / requests.days,
        disk_bytes=costs.disk_bytes,
    )


def recommended(ways: Iterable[Forecast], limits: Limits) -> Forecast | None:
    """The cheapest in machine hours of those that keep to the limits.

    Of equals, the one that needs less disk, has fewer blocks and settles less often.
    """
    return min(
        filter(limits.allow, ways),
        key=lambda each: (
            each.machine_hours,
            each.disk_bytes or 0,
            each.blocks,
            -each.every_days,
        ),
        default=None,
    )


def trade(requests: Arrivals, costs: Costs) -> Trade:
    """What a request costs on average that nobody else shares a pass with."""
    replays = Replays.of(requests.places, costs)
    approximate = replays.first if costs.back < costs.epochs else replays.last + 1
    settled = costs.length + 1 - approximate + costs.gap_before(approximate)
    passes = costs.pass_seconds * np.array([1, np.mean(settled > 0)])
    blocks = np.array([replays.count.mean(), settled.mean()])
    fast_seconds, settling_seconds = (passes + blocks * costs.block_seconds).tolist()
    return Trade(
        blocks=costs.blocks,
        keep=costs.keep,
        disk_bytes=costs.disk_bytes,
        fast_seconds=fast_seconds,
        settling_seconds=settling_seconds,
    )


def _waits(seconds: NDArray[np.float64]) -> Waits | None:
    if not len(seconds):
        return None
    p50, p95, p99, longest = np.percentile(seconds, _PERCENTILES).tolist()
    return Waits(p50=p50, p95=p95, p99=p99, longest=longest)


class _Worker:
    """One process that serves requests in the order of their arrival.

    Attributes:
        free: When it is done with what it is doing.
        carried: How many requests are forgotten.
        settled: How many of these are exact.
        approximate: The first block that is only approximate; behind the last where none is.
        fast: The seconds of each fast pass.
        exact: The seconds of each exact replay.
    """

    def __init__(self, requests: Arrivals, costs: Costs) -> None:
        self.costs = costs
        self.times: list[float] = requests.seconds.tolist()
        self.replays = Replays.of(requests.places, costs)
        self.forgotten_at = np.zeros(len(self.times))
        self.exact_at = np.zeros(len(self.times))
        self.free = 0.0
        self.carried = self.settled = self.replayed = 0
        self.approximate = costs.length + 1
        self.fast: list[float] = []
        self.exact: list[float] = []

    def serve(self, rhythm: Rhythm) -> None:
        """Serve everybody."""
        every = rhythm.every_days * DAY
        settling = every
        while self.settled < len(self.times):
            is_idle = self.carried == len(self.times)
            asked = math.inf if is_idle else self.times[self.carried]
            if self.approximate > self.costs.length:  # nothing to settle before somebody asks
                settling = max(settling, asked, every * math.ceil(asked / every))
            start = max(self.free, settling)
            if rhythm.is_fast and max(self.free, asked) < start:
                self.forget(max(self.free, asked))
                continue
            if rhythm.is_fast and asked <= start:
                self.forget(start)
            self.settle(max(self.free, start))
            settling = every * (math.floor(start / every) + 1)

    def forget(self, start: float) -> None:
        """One fast pass for everybody who waits."""
        waiting = slice(self.carried, bisect_right(self.times, start))
        replays, at = self.replays, self.carried
        if waiting.stop - waiting.start > 1:
            affected = np.unique(replays.affected[waiting])[np.newaxis]
            replays = Replays.over(affected, replays.first[waiting].min(keepdims=True), self.costs)
            at = 0
        first = int(replays.first[at])
        if self.costs.back < self.costs.epochs:  # what lies before is destroyed
            self.approximate = min(self.approximate, first)
        elif first <= self.approximate:  # what is replayed from an exact state is exact itself
            self.approximate = int(replays.last[at]) + 1
        self.fast.append(self._work(start, int(replays.count[at])))
        self._carry(waiting.stop)
        if self.approximate > self.costs.length:
            self._settle()

    def settle(self, start: float) -> None:
        """One exact replay, for everybody who waits and everybody who is forgotten fast."""
        waiting = slice(self.carried, bisect_right(self.times, start))
        asked = self.replays.first[waiting].min(initial=self.approximate)
        first = min(self.approximate, int(asked))
        if first <= self.costs.length:
            blocks = self.costs.length - first + 1 + int(self.costs.gap_before(first))
            self.exact.append(self._work(start, blocks))
        self._carry(waiting.stop)
        self.approximate = self.costs.length + 1
        self._settle()

    def _work(self, start: float, replayed: int) -> float:
        seconds = self.costs.pass_seconds + replayed * self.costs.block_seconds
        self.replayed += replayed
        self.free = start + seconds
        return seconds

    def _carry(self, upto: int) -> None:
        self.forgotten_at[self.carried : upto] = self.free
        self.carried = upto

    def _settle(self) -> None:
        self.exact_at[self.settled : self.carried] = self.free
        self.settled = self.carried
