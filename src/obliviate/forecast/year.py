"""A year: what is known of the training, and what becomes of every way to serve its requests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import TYPE_CHECKING

from obliviate.chain.spacing import KEYFRAME_RATIO, keyframe_count, keyframe_spacing
from obliviate.erasure.planner import expected_lag
from obliviate.errors import InvalidOption, RunUnfinished
from obliviate.forecast.costs import (
    OVERHEAD_SECONDS,
    OVERHEAD_SECONDS_PER_BYTE,
    PASS_SECONDS,
    Basis,
    Trade,
    check_positive,
    trades,
)
from obliviate.forecast.simulation import (
    DAY,
    Rhythm,
    arrivals,
    forecasts,
    recommended,
)
from obliviate.text import counted, duration, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from obliviate.forecast.simulation import Forecast, Limits, Load
    from obliviate.ledger import Entry, ErasureFacts
    from obliviate.run import Run

BLOCKS = (100, 200, 500)  # to compare where neither the user nor a run names any


@dataclass(frozen=True, kw_only=True)
class Year:
    """A simulated year, or however long it was.

    Attributes:
        load: The requests to expect.
        requests: How many came.
        limits: What a way of serving them must keep to.
        basis: What is known of the training.
        forecasts: Every way of serving them.
        recommended: The one to take; None where none keeps to the limits.
        trades: What keyframes cost in disk and save in time, for each number of blocks.
        notes: What the figures rest on, and what to look out for.
    """

    load: Load
    requests: int
    limits: Limits
    basis: Basis
    forecasts: tuple[Forecast, ...]
    recommended: Forecast | None
    trades: tuple[Trade, ...]
    notes: tuple[str, ...]


def basis_of(training_seconds: float, state_bytes: float | None, update_ratio: float) -> Basis:
    """What is known of a training before there is a run.

    Args:
        training_seconds: How long training on everything takes.
        state_bytes: The size of a state; None where it is not known.
        update_ratio: The size of an update on disk, in states.
    """
    check_positive("the size of an update, in states,", update_ratio)
    return Basis(
        training_seconds=training_seconds,
        overhead_seconds=_overhead(state_bytes),
        update_bytes=None if state_bytes is None else update_ratio * state_bytes,
        keyframe_bytes=None if state_bytes is None else KEYFRAME_RATIO * state_bytes,
    )


def basis_of_run(run: Run) -> Basis:
    """What a run shows of its training: measured block times, sizes, and its own erasures.

    Raises:
        RunUnfinished: It has not been trained to its end.
    """
    status, entries = run.status(), run.chain().entries
    if status.blocks_done < status.blocks:
        raise RunUnfinished(
            f"{run.folder} has been trained to block {status.blocks_done} of {status.blocks}",
            hint="call fit again with the same arguments: it goes on where it was",
        )
    keyframe_bytes = fmean(each.keyframe.size_bytes for each in entries if each.keyframe)
    update_bytes = fmean(_stored_bytes(each) for each in entries[1:])
    overhead = _overhead(keyframe_bytes)
    ratios = [*_ratios(entries, status.erasures, overhead)]
    ratio = median(ratios) if ratios else 1.0
    return Basis(
        training_seconds=sum(each.seconds for each in entries),
        overhead_seconds=ratio * overhead,
        pass_seconds=ratio * PASS_SECONDS,
        lag=expected_lag(run.ledger),
        update_bytes=update_bytes,
        keyframe_bytes=keyframe_bytes,
        records=status.records,
        blocks=status.blocks,
    )


def _overhead(state_bytes: float | None) -> float:
    return OVERHEAD_SECONDS + OVERHEAD_SECONDS_PER_BYTE * (state_bytes or 0)


def _stored_bytes(entry: Entry) -> int:
    return sum(each.size_bytes for each in (entry.update, entry.optimizer) if each)


def _ratios(
    entries: Sequence[Entry], erasures: Sequence[ErasureFacts], overhead: float
) -> Iterator[float]:
    """For each erasure, the time beside the training of its blocks, against the expected one.

    One number each cannot tell what blocks and what passes cost: both are scaled by it.
    """
    for each in erasures:
        if each.outcome is None or not each.outcome.segments:
            continue
        blocks = each.outcome.replayed
        beside = each.outcome.seconds - sum(entries[block].seconds for block in blocks)
        if beside > 0:
            yield beside / (PASS_SECONDS + len(blocks) * overhead)


def with_given(
    basis: Basis,
    *,
    lag: float | None,
    overhead_seconds: float | None,
    pass_seconds: float | None,
) -> Basis:
    """What is known, with what the user knows better in its place."""
    return replace(
        basis,
        lag=basis.lag if lag is None else lag,
        overhead_seconds=basis.overhead_seconds if overhead_seconds is None else overhead_seconds,
        pass_seconds=basis.pass_seconds if pass_seconds is None else pass_seconds,
    )


def year_of(
    load: Load,
    basis: Basis,
    limits: Limits,
    *,
    blocks: Sequence[int] | None = None,
    every_days: Sequence[float],
) -> Year:
    """Simulate every number of blocks with every rhythm, and recommend one.

    Args:
        load: The requests to expect.
        basis: What is known of the training.
        limits: What a way of serving must keep to.
        blocks: Numbers of blocks to compare; that of the run that was measured, or some usual ones,
            if None.
        every_days: Days between settlings.

    Raises:
        InvalidOption: A number is not allowed.
    """
    if limits.disk_bytes is not None and basis.keyframe_bytes is None:
        raise InvalidOption(
            "the disk is limited, but the size of a state is not known",
            hint="give --state-bytes N, or --run RUN",
        )
    blocks = blocks or ((basis.blocks,) if basis.blocks else BLOCKS)
    costs = [basis.costs(each, keyframe_count(each, keyframe_spacing(each))) for each in blocks]
    rhythms = [
        Rhythm(every_days=each, is_fast=fast) for each in every_days for fast in (True, False)
    ]
    requests = arrivals(load)
    ways = forecasts(requests, costs, rhythms, limits)
    count = len(requests.seconds)
    return Year(
        load=load,
        requests=count,
        limits=limits,
        basis=basis,
        forecasts=ways,
        recommended=recommended(ways, limits),
        trades=tuple(trade for each in blocks for trade in trades(basis, each)),
        notes=(
            *_assumptions(basis, blocks),
            *_warnings(load, count, basis, limits, ways),
        ),
    )


def _assumptions(basis: Basis, blocks: Sequence[int]) -> Iterator[str]:
    others = [str(each) for each in blocks if each != basis.blocks]
    source = (
        f"times were measured at {basis.blocks} blocks and are extrapolated to "
        f"{', '.join(others)}: "
        if basis.blocks and others
        else ""
    )
    yield (
        f"{source}training takes {duration(basis.training_seconds)} in all, "
        f"however it is cut; every replayed block {milliseconds(basis.overhead_seconds)} beside "
        f"its training, every pass {milliseconds(basis.pass_seconds)} more"
    )
    yield (
        f"the fast path replays {max(1, round(basis.lag))} blocks from each affected one on, "
        "however many blocks there are; how good its models are is not simulated: see `bench`"
    )
    if basis.keyframe_bytes is not None:
        yield "while an exact replay runs, the disk holds up to twice the size of the chain"


def _warnings(
    load: Load, requests: int, basis: Basis, limits: Limits, ways: Sequence[Forecast]
) -> Iterator[str]:
    due_days = limits.due_seconds / DAY
    late = sorted({each.every_days for each in ways if each.every_days > due_days})
    if late:
        yield (
            f"settling every {', '.join(f'{each:g}' for each in late)} days is slower than the "
            f"{due_days:g} days after which requests are due: who asks early is late"
        )
    slow = [each for each in ways if each.longest_settling_seconds > each.every_days * DAY]
    if slow:
        longest = max(each.longest_settling_seconds for each in slow)
        rhythms = sorted({each.every_days for each in slow})
        yield (
            f"an exact replay takes up to {duration(longest)}: the worker cannot keep up with "
            f"settling every {', '.join(f'{each:g}' for each in rhythms)} days"
        )
    if basis.records is not None and requests * load.records > basis.records:
        yield (
            f"{counted(requests, 'request')} of {counted(load.records, 'record')} each are more "
            f"than the run's {counted(basis.records, 'record')}: such a run would have to be made "
            "again on new records long before"
        )
