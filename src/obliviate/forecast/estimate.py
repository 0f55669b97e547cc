"""Estimate: what keeping and forgetting takes where a model is too large to try it first.

Everything follows from sizes, from the seconds of a step, and from rates that were measured on two
cores (docs/benchmarks.md) and can be given. What one request costs is what the simulation of a year
says of a request that nobody shares a pass with.
"""

from __future__ import annotations

from dataclasses import dataclass

from obliviate.chain.spacing import keyframe_count, keyframe_spacing
from obliviate.errors import InvalidOption
from obliviate.forecast.costs import Basis, check_positive
from obliviate.forecast.requests import HOUR, Load, arrivals
from obliviate.forecast.simulation import trade
from obliviate.forecast.year import basis_of, with_given
from obliviate.options import whole

HASHED_BYTES_PER_SECOND = 1.3e9  # of a frozen base, SHA-256 on one core: benchmarks/arithmetic.py
WRITTEN_BYTES_PER_SECOND, READ_BYTES_PER_SECOND = 0.36e9, 0.92e9  # of states: docs/benchmarks.md
LEDGER_BYTES, LEDGER_BYTES_AN_EPOCH = 40.0, 4.1  # for each record: docs/benchmarks.md
LEDGER_SECONDS = 2.06e-5  # to make it, for each record of 20 epochs
_PEOPLE = Load(per_day=1000, days=1, records=1, seed=0)  # a request of one person, on average


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training that is planned.

    Attributes:
        parameters: How many the model has.
        trainable: How many of them are trained; all if None.
        parameter_bytes: Of a trained one.
        frozen_bytes: Of a frozen one.
        moments: What the optimizer carries, in states: 2 with Adam, 1 with momentum, 0 if fresh.
        steps: Of an epoch.
        step_seconds: How long one takes, on all the GPUs together.
        epochs: How many there are.
        blocks: How many an epoch is cut into.
        keep: Of how many of the last epochs every update is kept; what is usual if None.
        records: How many there are, for the ledger.
        gpus: How many a step computes on.
        gpu_hour_price: Of one, in any currency.
        store_rate: Bytes a second to and from where the vault is; as in the measured rates if None.
        gigabyte_month_price: Of keeping a gigabyte there for a month.
        lag: Blocks that a fast erasure replays of each epoch, if known better.
        block_overhead: Seconds beside the training of each replayed block, if known better.
    """

    parameters: float
    trainable: float | None = None
    parameter_bytes: float = 4.0
    frozen_bytes: float = 2.0
    moments: float = 2.0
    steps: int
    step_seconds: float
    epochs: int = 1
    blocks: int = 100
    keep: int | None = None
    records: int = 0
    gpus: int = 1
    gpu_hour_price: float = 0.0
    store_rate: float | None = None
    gigabyte_month_price: float = 0.0
    lag: float | None = None
    block_overhead: float | None = None

    def __post_init__(self) -> None:
        for name in ("parameters", "parameter_bytes", "step_seconds"):
            check_positive(name.replace("_", " "), getattr(self, name))
        for name in ("frozen_bytes", "moments", "gpu_hour_price", "gigabyte_month_price"):
            check_positive(name.replace("_", " "), getattr(self, name), zero=True)
        for name in ("steps", "epochs", "blocks", "gpus"):
            whole(getattr(self, name), name, least=1)
        whole(self.records, "records")
        if self.trainable is not None:
            check_positive("trainable", self.trainable)
            if self.trainable > self.parameters:
                raise InvalidOption(
                    f"{self.trainable:,.0f} trained parameters are more than the model's "
                    f"{self.parameters:,.0f}",
                    hint="give --trainable, at most --parameters",
                )
        if self.store_rate is not None:
            check_positive("the rate of the vault's storage", self.store_rate)
        if self.blocks > self.steps:
            raise InvalidOption(
                f"{self.blocks} blocks are more than the {self.steps} steps of an epoch",
                hint="give fewer blocks: each trains for a step at least",
            )

    @property
    def trained(self) -> float:
        """How many parameters are trained."""
        return self.parameters if self.trainable is None else self.trainable

    @property
    def state_bytes(self) -> float:
        """What a checkpoint holds in memory: what is trained."""
        return self.trained * self.parameter_bytes

    @property
    def base_bytes(self) -> float:
        """What is frozen: it is in no checkpoint, and is hashed when a run is opened."""
        return (self.parameters - self.trained) * self.frozen_bytes

    def basis(self) -> Basis:
        """What the simulation of a year knows of it."""
        training = self.steps * self.step_seconds * self.epochs
        basis = basis_of(training, self.state_bytes, epochs=self.epochs, moments=self.moments)
        return with_given(basis, lag=self.lag, overhead_seconds=self.block_overhead)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What forgetting one person takes, who has all of her records in one block of each epoch.

    Attributes:
        seconds: From the request to the model that has forgotten.
        moved_bytes: What is read from the vault and written to it.
        price: Of the GPUs, for as long.
    """

    seconds: float
    moved_bytes: float
    price: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What comes of a plan.

    Attributes:
        plan: It.
        state_bytes: Of a checkpoint in memory.
        base_bytes: Of what is frozen.
        chain_bytes: Of the chain on disk.
        ledger_bytes: Of the ledger.
        month_price: Of keeping the chain for a month.
        training_seconds: Of training by itself.
        ledger_seconds: To make the ledger, before the first block.
        opening_seconds: To hash what is frozen, whenever the run is opened, on one core.
        store_bytes_per_second: What storing has to keep up with while the run is trained.
        forget: A fast erasure.
        settle: The exact replay after it.
    """

    plan: Plan
    state_bytes: float
    base_bytes: float
    chain_bytes: float
    ledger_bytes: float
    month_price: float
    training_seconds: float
    ledger_seconds: float
    opening_seconds: float
    store_bytes_per_second: float
    forget: Cost
    settle: Cost


def estimate_of(plan: Plan) -> Estimate:
    """Work out what keeping and forgetting takes.

    Raises:
        InvalidOption: A number makes no sense.
    """
    basis = plan.basis()
    costs = basis.costs(plan.blocks, keep=plan.keep)
    sizes = basis.sizes
    assert sizes is not None  # noqa: S101 - the size of a state is known
    assert costs.disk_bytes is not None  # noqa: S101
    alone = trade(arrivals(_PEOPLE, plan.epochs), costs)
    object_bytes = sizes.update_bytes + sizes.moments_bytes
    spacing = keyframe_spacing(costs.length)
    keyframes = keyframe_count(costs.blocks * costs.keep, spacing)
    settled = min(1.0, alone.settling_seconds / costs.block_seconds / (costs.blocks * costs.keep))
    opening = plan.base_bytes / HASHED_BYTES_PER_SECOND

    def cost(seconds: float, behind: float, turns: int) -> Cost:
        """Of a pass with as many keyframes behind it, each of them read, or written, or both."""
        blocks = max(0.0, seconds - costs.pass_seconds) / costs.block_seconds
        moved = turns * (blocks * object_bytes + behind * sizes.keyframe_bytes)
        rewriting = (
            behind
            * plan.state_bytes
            * (1 / WRITTEN_BYTES_PER_SECOND + (turns - 1) / READ_BYTES_PER_SECOND)
        )
        transfer = moved / plan.store_rate if plan.store_rate else 0.0
        whole_time = opening + seconds + rewriting + transfer
        price = whole_time / HOUR * plan.gpus * plan.gpu_hour_price
        return Cost(seconds=whole_time, moved_bytes=moved, price=price)

    training_seconds = basis.epochs * basis.epoch_seconds
    return Estimate(
        plan=plan,
        state_bytes=plan.state_bytes,
        base_bytes=plan.base_bytes,
        chain_bytes=costs.disk_bytes,
        ledger_bytes=plan.records * (LEDGER_BYTES + LEDGER_BYTES_AN_EPOCH * plan.epochs),
        month_price=costs.disk_bytes / 1e9 * plan.gigabyte_month_price,
        training_seconds=training_seconds,
        ledger_seconds=plan.records * LEDGER_SECONDS,
        opening_seconds=opening,
        store_bytes_per_second=(plan.state_bytes * (1 + plan.moments))
        / (training_seconds / costs.length),
        # a stitched keyframe is read, and written without the trace; a settled one is written
        forget=cost(alone.fast_seconds, keyframes * (1 - 0.5 / costs.keep), turns=2),
        settle=cost(alone.settling_seconds, keyframes * settled, turns=1),
    )
