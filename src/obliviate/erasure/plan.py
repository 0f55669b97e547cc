"""What an erasure will touch, and what it will cost, before anything changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

EXPECTED_LAG = (
    5  # blocks a fast erasure replays for each affected block, until this run has shown better
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request, and what carrying it out would mean.

    Attributes:
        method: The name of the method.
        records: Ids that would be erased.
        ignored: Ids that were named but are erased already.
        affected: The blocks that hold the records and are replayed, ascending; of those that were
            trained on.
        unreached: Those that hold them too and lie too far back to be replayed, ascending. What is
            stored of them, and of the blocks between, is destroyed.
        window: The first block that a fast method can go back to.
        start: The first block that would be replayed; None where there is none.
        blocks: How many blocks the chain has so far.
        segments: The blocks expected to be replayed, as (first, last).
        seconds: How long that is expected to take, from this run's measured block times.
        seconds_exact: How long the exact replay would take: the most that any method can.
    """

    method: str
    records: tuple[int, ...]
    ignored: tuple[int, ...]
    affected: tuple[int, ...]
    start: int | None
    blocks: int
    segments: tuple[tuple[int, int], ...]
    seconds: float
    seconds_exact: float
    unreached: tuple[int, ...] = ()
    window: int = 1

    @property
    def blocks_replayed(self) -> int:
        """How many blocks are expected to be replayed."""
        return sum(last - first + 1 for first, last in self.segments)

    def lag(self, block: int) -> int:
        """Which block a block is, counted from the latest affected one on."""
        return block - max(each for each in self.affected if each <= block) + 1

    def until(self, block: int) -> int:
        """The last block that would be stitched on, if replaying stopped at a block."""
        later = (each for each in self.affected if each > block)
        return next(later, self.blocks + 1) - 1


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What the cost of any erasure from a chain depends on.

    Attributes:
        seconds: The measured time of each block 1..B.
        first_approximate: The first block whose stored state is not exact.
        expected_lag: How many blocks a fast erasure replays from an affected block on.
        window: The first block from which on every update is kept, and the state before it.
    """

    seconds: Sequence[float]
    first_approximate: int | None = None
    expected_lag: float = EXPECTED_LAG
    window: int = 1

    @cached_property
    def _until(self) -> list[float]:
        return [0.0, *accumulate(self.seconds)]

    def between(self, first: int, last: int) -> float:
        """The seconds that some blocks take, the first and the last included."""
        return self._until[last] - self._until[first - 1]


def make_plan(
    *,
    method: str,
    records: Sequence[int],
    blocks: Sequence[int],
    ignored: Sequence[int],
    pace: Pace,
    reach: int = 1,
) -> Plan:
    """Plan an erasure.

    Args:
        method: Its name; "exact" replays to the end, and from the last exact checkpoint if the
            request lies behind it.
        records: What to erase.
        blocks: The blocks that hold them.
        ignored: Named records that are erased already.
        pace: Of the chain.
        reach: The first block that a fast method goes back to.
    """
    last_block = len(pace.seconds)
    affected = tuple(sorted(block for block in set(blocks) if block <= last_block))
    inexact = [pace.first_approximate] if pace.first_approximate is not None else []
    exact_start = min([*affected, *inexact], default=None)
    first = 1 if method == "exact" else max(pace.window, reach)
    unreached = tuple(block for block in affected if block < first)
    affected = affected[len(unreached) :]
    start = exact_start if method == "exact" else min(affected, default=None)
    if start is None:
        segments: tuple[tuple[int, int], ...] = ()
    elif method == "exact":
        segments = ((start, last_block),)
    else:
        segments = expected_segments(affected, last_block, pace.expected_lag)
    return Plan(
        method=method,
        records=tuple(sorted(records)),
        ignored=tuple(sorted(ignored)),
        affected=affected,
        start=start,
        blocks=last_block,
        segments=segments,
        seconds=sum(pace.between(first, last) for first, last in segments),
        seconds_exact=pace.between(exact_start, last_block) if exact_start else 0.0,
        unreached=unreached,
        window=pace.window,
    )


def expected_segments(
    affected: Sequence[int], blocks: int, lag: float
) -> tuple[tuple[int, int], ...]:
    """The segments that replaying some blocks after each affected one adds up to.

    Args:
        affected: Block numbers, ascending.
        blocks: The last block.
        lag: How many blocks are replayed from an affected one on, itself included.
    """
    if not affected:
        return ()
    reach = max(1, round(lag))
    ends = [min(block + reach - 1, blocks) for block in affected]
    starts = [affected[0]]
    lasts = []
    for (_, end), (following, _) in pairwise(zip(affected, ends, strict=True)):
        if following > end + 1:
            lasts.append(end)
            starts.append(following)
    return tuple(zip(starts, [*lasts, ends[-1]], strict=True))
