"""A year: what is known of the training, and what becomes of every way to serve its requests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import TYPE_CHECKING

from obliviate.chain.spacing import UPDATE_RATIO, Sizes
from obliviate.erasure.planner import expected_lag
from obliviate.errors import InvalidOption, RunUnfinished
from obliviate.forecast.costs import (
    OVERHEAD_SECONDS,
    OVERHEAD_SECONDS_PER_BYTE,
    PASS_SECONDS,
    Basis,
    check_positive,
)
from obliviate.forecast.requests import DAY, arrivals
from obliviate.forecast.simulation import Rhythm, forecasts, recommended, trade
from obliviate.options import whole
from obliviate.recipe.parts import usual_keep
from obliviate.text import counted, duration, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from obliviate.chain.chain import Chain
    from obliviate.forecast.costs import Costs
    from obliviate.forecast.requests import Arrivals, Load
    from obliviate.forecast.simulation import Forecast, Limits, Trade
    from obliviate.ledger import ErasureFacts
    from obliviate.recipe.parts import Part
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
        trades: What keeping more epochs in full costs in disk and spares in time, for each number
            of blocks; none where there is one epoch, or nobody asked.
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


def basis_of(
    training_seconds: float,
    state_bytes: float | None,
    *,
    epochs: int = 1,
    moments: float = 0.0,
    update_ratio: float = UPDATE_RATIO,
) -> Basis:
    """What is known of a training before there is a run.

    Args:
        training_seconds: How long training takes, through all epochs.
        state_bytes: The size of a state; None where it is not known.
        epochs: How many epochs there are.
        moments: The size of what an optimizer carries from block to block, in states.
        update_ratio: The size of an update on disk, in states.
    """
    check_positive("the size of an update, in states,", update_ratio)
    check_positive("the size of what an optimizer carries, in states,", moments, zero=True)
    check_positive("the time of training", training_seconds)
    sizes = None
    if state_bytes is not None:
        check_positive("the size of a state", state_bytes)
        sizes = Sizes.expected(state_bytes, moments * state_bytes, update_ratio)
    return Basis(
        epoch_seconds=training_seconds / whole(epochs, "epochs", least=1),
        overhead_seconds=_overhead((1 + moments) * (state_bytes or 0)),
        sizes=sizes,
        epochs=epochs,
    )


def basis_of_run(run: Run) -> Basis:
    """What a run shows of its training: measured block times, sizes, and its own erasures.

    Raises:
        RunUnfinished: It has not been trained to its end.
    """
    status, chain = run.status(), run.chain()
    if status.blocks_done < status.blocks:
        raise RunUnfinished(
            f"{run.folder} has been trained to block {status.blocks_done} of {status.blocks}",
            hint="call fit again with the same arguments: it goes on where it was",
        )
    sizes = _sizes(chain)
    overhead = _overhead(sizes.keyframe_bytes + sizes.moments_bytes)
    ratios = [*_ratios(chain, status.erasures, overhead)]
    ratio = median(ratios) if ratios else 1.0
    epochs, keep, blocks = _shape(run.facts.parts)
    return Basis(
        epoch_seconds=sum(each.seconds for each in chain.entries) / epochs,
        overhead_seconds=ratio * overhead,
        pass_seconds=ratio * PASS_SECONDS,
        lag=expected_lag(run.ledger),
        sizes=sizes,
        epochs=epochs,
        keep=keep,
        blocks=blocks,
        records=status.records,
    )


def _shape(parts: Sequence[Part]) -> tuple[int, int, int]:
    """Epochs, those kept in full, and blocks of an epoch: of a run made at once, about as long."""
    records, length = sum(part.records for part in parts), sum(part.length for part in parts)
    seen = sum(len(part.covered) * len(part.deals) for part in parts)
    epochs = max(1, round(seen / records))
    blocks = max(1, round(length / epochs))
    kept = sum(part.keep * part.blocks for part in parts)
    return epochs, min(epochs, max(1, round(kept / blocks))), blocks


def _sizes(chain: Chain) -> Sizes:
    """What is stored of a block, on average; of moments, where a checkpoint is kept."""
    trained = [each for each in chain.entries[1:] if each.origin in ("trained", "replayed")]
    kept = [each for each in trained if each.update or each.keyframe]
    return Sizes(
        update_bytes=fmean(each.update.size_bytes for each in chain.entries if each.update),
        keyframe_bytes=fmean(each.keyframe.size_bytes for each in chain.entries if each.keyframe),
        moments_bytes=fmean([each.optimizer.size_bytes if each.optimizer else 0 for each in kept])
        if kept
        else 0.0,
    )


def _overhead(state_bytes: float | None) -> float:
    return OVERHEAD_SECONDS + OVERHEAD_SECONDS_PER_BYTE * (state_bytes or 0)


def _ratios(chain: Chain, erasures: Sequence[ErasureFacts], overhead: float) -> Iterator[float]:
    """For each erasure, the time beside the training of its blocks, against the expected one.

    One number each cannot tell what blocks and what passes cost: both are scaled by it. Those that
    had to bridge a gap say nothing.
    """
    for each in erasures:
        if each.outcome is None or not each.outcome.segments:
            continue
        blocks = each.outcome.replayed
        beside = each.outcome.seconds - sum(chain.entries[block].seconds for block in blocks)
        if beside > 0 and chain.is_held(blocks[0] - 1):
            yield beside / (PASS_SECONDS + len(blocks) * overhead)


def with_given(
    basis: Basis,
    *,
    epochs: int | None = None,
    lag: float | None = None,
    overhead_seconds: float | None = None,
    pass_seconds: float | None = None,
) -> Basis:
    """What is known, with what the user knows better, or wants to be otherwise, in its place."""
    if epochs not in (None, basis.epochs):
        basis = replace(basis, epochs=epochs, keep=None)
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
    keep: int | None = None,
    back: int | None = None,
    every_days: Sequence[float],
) -> Year:
    """Simulate every number of blocks with every rhythm, and recommend one.

    Args:
        load: The requests to expect.
        basis: What is known of the training.
        limits: What a way of serving must keep to.
        blocks: Numbers of blocks of an epoch to compare; that of the run that was measured, or some
            usual ones, if None.
        keep: Of how many of the last epochs every update is kept; as in the run, or what is usual,
            if None.
        back: How many of the last epochs the fast path goes back to; all that are kept if None.
        every_days: Days between settlings.

    Raises:
        InvalidOption: A number is not allowed.
    """
    if limits.disk_bytes is not None and basis.sizes is None:
        raise InvalidOption(
            "the disk is limited, but the size of a state is not known",
            hint="give --state-bytes N, or --run RUN",
        )
    blocks = blocks or ((basis.blocks,) if basis.blocks else BLOCKS)
    costs = [basis.costs(each, keep=keep, back=back) for each in blocks]
    rhythms = [
        Rhythm(every_days=each, is_fast=fast) for each in every_days for fast in (True, False)
    ]
    requests = arrivals(load, basis.epochs)
    ways = forecasts(requests, costs, rhythms, limits)
    count = len(requests.seconds)
    return Year(
        load=load,
        requests=count,
        limits=limits,
        basis=basis,
        forecasts=ways,
        recommended=recommended(ways, limits),
        trades=_trades(requests, basis, costs, back),
        notes=(
            *_assumptions(basis, costs),
            *_warnings(load, count, basis, limits, ways),
        ),
    )


def _trades(
    requests: Arrivals, basis: Basis, costs: Sequence[Costs], back: int | None
) -> tuple[Trade, ...]:
    """With one epoch kept in full, with what is usual or asked for, and with all."""
    if basis.epochs == 1 or not len(requests.seconds):
        return ()
    return tuple(
        trade(requests, basis.costs(each.blocks, keep=keep, back=min(keep, back or keep)))
        for each in costs
        for keep in sorted({1, usual_keep(basis.epochs), each.keep, basis.epochs})
    )


def _assumptions(basis: Basis, costs: Sequence[Costs]) -> Iterator[str]:
    others = [str(each.blocks) for each in costs if each.blocks != basis.blocks]
    source = (
        f"times were measured at {basis.blocks} blocks and are extrapolated to "
        f"{', '.join(others)}: "
        if basis.blocks and others
        else ""
    )
    yield (
        f"{source}training takes {duration(basis.epochs * basis.epoch_seconds)} in all, "
        f"however it is cut; every replayed block {milliseconds(basis.overhead_seconds)} beside "
        f"its training, every pass {milliseconds(basis.pass_seconds)} more"
    )
    yield (
        f"the fast path replays {max(1, round(basis.lag))} blocks from each affected one on, "
        "however many blocks there are; how good its models are is not simulated: see `bench`"
    )
    if basis.epochs > 1:
        back = costs[0].back
        yield (
            f"everybody is trained on in each of {basis.epochs} epochs: the fast path goes back to "
            f"the last {back}, and an exact replay does nearly all of training anew"
        )
    if basis.sizes and not basis.sizes.moments_bytes and basis.blocks is None:
        yield "no optimizer is taken to be carried; if it is, --moments says what it keeps"
    if basis.sizes is not None:
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
