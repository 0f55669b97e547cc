"""Requests: when they come, where in the training their records lie, and what replaying them takes.

Where records lie is drawn for any number of blocks at once, so that all ways of serving meet the
very same requests, and differ by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from obliviate.errors import InvalidOption
from obliviate.forecast.costs import check_positive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from obliviate.forecast.costs import Costs

HOUR, DAY = 3600.0, 86400.0
DAYS_A_YEAR = 365.0
MOST_PLACES = 2_000_000  # some seconds for each way of serving them


@dataclass(frozen=True, kw_only=True)
class Load:
    """The requests to expect.

    Attributes:
        per_day: How many arrive on an average day (Poisson: independently of each other).
        days: For how long they arrive.
        records: How many records each of them names that are dealt one by one; 1 where the records
            of a person stay together.
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


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Requests that came.

    Attributes:
        seconds: When, ascending, from the start; shape (requests,).
        places: Where in each epoch each record lies, in [0, 1); shape (requests, epochs, records).
        days: For how long requests came.
    """

    seconds: NDArray[np.float64]
    places: NDArray[np.float64]
    days: float


def arrivals(load: Load, epochs: int = 1) -> Arrivals:
    """Draw the requests.

    Raises:
        InvalidOption: There are too many.
    """
    places = load.per_day * load.days * load.records * epochs
    if places > MOST_PLACES:
        raise InvalidOption(
            f"records in {places:,.0f} places are too many to simulate; {MOST_PLACES:,} are "
            "possible: requests x records x epochs",
            hint="simulate fewer days: costs are given for each request and for a year anyway",
        )
    draws = np.random.default_rng(load.seed)
    requests = int(draws.poisson(load.per_day * load.days))
    return Arrivals(
        seconds=np.sort(draws.uniform(0, load.days * DAY, requests)),
        places=draws.random((requests, epochs, load.records)),
        days=load.days,
    )


@dataclass(frozen=True, kw_only=True)
class Replays:
    """What the fast path replays for some requests, each by itself. Shape (requests,) each.

    Attributes:
        first: The first block that holds a record, in all epochs.
        last: The last block of the first segment.
        count: How many blocks are replayed.
        affected: The blocks of the epochs that are gone back to; shape (requests, places), sorted.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    count: NDArray[np.int64]
    affected: NDArray[np.int64]

    @classmethod
    def of(cls, places: NDArray[np.float64], costs: Costs) -> Replays:
        """Of requests for records in some places; see `Arrivals`."""
        epochs = np.arange(costs.epochs)[:, np.newaxis]
        blocks = (places * costs.blocks).astype(np.int64) + 1 + epochs * costs.blocks
        late = blocks[:, -costs.back :]
        affected = late.reshape(len(late), late.shape[1] * late.shape[2])
        return cls.over(np.sort(affected, axis=1), blocks[:, 0].min(axis=1), costs)

    @classmethod
    def over(cls, affected: NDArray[np.int64], first: NDArray[np.int64], costs: Costs) -> Replays:
        """From the blocks that hold them; see `erasure.plan.expected_segments`."""
        reach = max(1, round(costs.lag))
        until_next = np.diff(affected, axis=1, append=costs.length + 1)
        lengths = np.minimum(until_next, reach)
        is_end = until_next > reach
        is_end[:, -1] = True
        at = np.arange(len(affected)), is_end.argmax(axis=1)
        return cls(
            first=first,
            last=affected[at] + lengths[at] - 1,
            count=lengths.sum(axis=1),
            affected=affected,
        )
