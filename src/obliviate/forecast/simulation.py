"""Simulation: a year of requests to forget, served by one worker; what it costs and who waits.

Requests arrive at random, each for records of uniformly random blocks. The worker is one process.
Whatever waits when it is free is carried out in one pass: the fast path replays some blocks from
each affected one on. Every so many days the account is settled: what waits is first forgotten
fast, then one exact replay from the first block that is only approximate makes everybody exact,
those included who asked meanwhile. A worker that is "exact only" lets everything wait for that.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from obliviate.erasure.plan import expected_segments
from obliviate.errors import InvalidOption
from obliviate.forecast.costs import check_positive

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from obliviate.forecast.costs import Costs

HOUR, DAY = 3600.0, 86400.0
DAYS_A_YEAR = 365.0
MOST_RECORDS = 500_000  # some seconds for each way of serving them
_SHORTEST = 60.0
_PERCENTILES = (50, 95, 99, 100)


@dataclass(frozen=True, kw_only=True)
class Load:
    """The requests to expect.

    Attributes:
        per_day: How many arrive on an average day (Poisson: independently of each other).
        days: For how long they arrive.
        records: How many records each of them names.
        seed: Of the random draws.
    """

    per_day: float
    days: float = DAYS_A_YEAR
    records: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("the number of requests a day", self.per_day)
        check_positive("the number of days", self.days)
        check_positive("the number of records of a request", self.records)
        if self.seed < 0:
            raise InvalidOption(f"the seed is {self.seed}", hint="give 0 or a positive number")
        if self.per_day * self.days * self.records > MOST_RECORDS:
            raise InvalidOption(
                f"{self.per_day * self.days * self.records:,.0f} records are too many to simulate; "
                f"{MOST_RECORDS:,} are possible",
                hint="simulate fewer days: costs are given for each request and for a year anyway",
            )


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Requests that came.

    Attributes:
        seconds: When, ascending, from the start; shape (requests,).
        places: Where in the training each record lies, in [0, 1); shape (requests, records).
        days: For how long requests came.
    """

    seconds: NDArray[np.float64]
    places: NDArray[np.float64]
    days: float


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
        blocks: How many the chain has.
        every_days: How often it is settled.
        is_fast: Whether requests are first carried out fast.
        requests: How many came.
        fast_passes: How many fast passes there were: requests that wait together share one.
        settlings: How many exact replays there were.
        fast_seconds: Of work for each request, in fast passes.
        settling_seconds: Of work for each request: its share of the exact replays.
        blocks_replayed: For each request, in both.
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


def arrivals(load: Load) -> Arrivals:
    """Draw the requests. Where their records lie is drawn for any number of blocks at once.

    So all ways of serving meet the very same requests, and differ by nothing else.
    """
    draws = np.random.default_rng(load.seed)
    requests = int(draws.poisson(load.per_day * load.days))
    return Arrivals(
        seconds=np.sort(draws.uniform(0, load.days * DAY, requests)),
        places=draws.random((requests, load.records)),
        days=load.days,
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
        self.blocks: list[list[int]] = ((requests.places * costs.blocks).astype(int) + 1).tolist()
        self.forgotten_at = np.zeros(len(self.times))
        self.exact_at = np.zeros(len(self.times))
        self.free = 0.0
        self.carried = self.settled = self.replayed = 0
        self.approximate = costs.blocks + 1
        self.fast: list[float] = []
        self.exact: list[float] = []

    def serve(self, rhythm: Rhythm) -> None:
        """Serve everybody."""
        every = rhythm.every_days * DAY
        settling = every
        while self.settled < len(self.times):
            is_idle = self.carried == len(self.times)
            asked = math.inf if is_idle else self.times[self.carried]
            if self.approximate > self.costs.blocks:  # nothing to settle before somebody asks
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
        upto, affected = self._waiting(start)
        segments = expected_segments(affected, self.costs.blocks, self.costs.lag)
        first, last = segments[0]
        if first <= self.approximate:  # what is replayed from an exact state is exact itself
            self.approximate = last + 1
        replayed = sum(end - begin + 1 for begin, end in segments)
        self.fast.append(self._work(start, replayed))
        self._carry(upto)
        if self.approximate > self.costs.blocks:
            self._settle()

    def settle(self, start: float) -> None:
        """One exact replay, for everybody who waits and everybody who is forgotten fast."""
        upto, affected = self._waiting(start)
        first = min([self.approximate, *affected])
        if first <= self.costs.blocks:
            self.exact.append(self._work(start, self.costs.blocks - first + 1))
        self._carry(upto)
        self.approximate = self.costs.blocks + 1
        self._settle()

    def _waiting(self, start: float) -> tuple[int, list[int]]:
        upto = bisect_right(self.times, start)
        waiting = self.blocks[self.carried : upto]
        return upto, sorted({block for request in waiting for block in request})

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
