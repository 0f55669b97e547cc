"""Costs: what chains of different shapes take, from what is known of one training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from obliviate.chain.spacing import keyframe_spacing
from obliviate.erasure.plan import EXPECTED_LAG
from obliviate.errors import InvalidOption
from obliviate.options import whole
from obliviate.recipe.parts import sparse_spacing, usual_keep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from obliviate.chain.spacing import Sizes

MOST_BLOCKS = 1_000_000
PASS_SECONDS = 0.1  # planning, one commit, destroying: docs/benchmarks.md
OVERHEAD_SECONDS = 0.01  # for a replayed block: another row in the ledger, files opened and closed
OVERHEAD_SECONDS_PER_BYTE = 1.5e-8  # the same for each byte of a state: differences, hashes, disk


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a chain of some shape costs.

    Attributes:
        blocks: How many blocks an epoch is cut into.
        epochs: How many epochs there are.
        keep: Of how many of the last epochs every update is kept.
        back: How many of the last epochs the fast path goes back to.
        block_seconds: Replaying a block: its training and everything beside.
        pass_seconds: What every pass takes on top, fast or exact.
        lag: How many blocks the fast path replays from an affected one on, itself included.
        disk_bytes: The size of the chain; None where states of unknown size are kept.
    """

    blocks: int
    epochs: int = 1
    keep: int = 1
    back: int = 1
    block_seconds: float
    pass_seconds: float = 0.0
    lag: float = EXPECTED_LAG
    disk_bytes: float | None = None

    @property
    def length(self) -> int:
        """How many blocks the chain has, through all epochs."""
        return self.blocks * self.epochs

    def gap_before(self, block: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """How many blocks lie between a block and the last checkpoint before it that is kept."""
        short = (self.epochs - self.keep) * self.blocks + 1 - block  # of what is kept in full
        bridged = np.minimum(block - 1, -short % sparse_spacing(self.blocks))
        return np.where(short > 0, bridged, 0)


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What is known of a training, from which the costs of any chain follow.

    Assumes that an epoch takes the same time, however it is cut, and that everything beside the
    training of a block takes the same time for every block. Small blocks void it: where batches
    are no longer full, training takes longer.

    Attributes:
        epoch_seconds: Training once on everything.
        overhead_seconds: What replaying a block takes beside its training: differences, storing.
        pass_seconds: What every pass takes on top.
        lag: How many blocks the fast path replays from an affected one on, however many there are.
        sizes: What is stored of a block; None where the size of a state is not known.
        epochs: How many epochs there are.
        keep: Of how many of the last epochs the run keeps every update; None without a run.
        blocks: How many blocks an epoch of the run has; None without a run.
        records: How many records there are, where that is known: no epoch has more blocks.
    """

    epoch_seconds: float
    overhead_seconds: float = OVERHEAD_SECONDS
    pass_seconds: float = PASS_SECONDS
    lag: float = EXPECTED_LAG
    sizes: Sizes | None = None
    epochs: int = 1
    keep: int | None = None
    blocks: int | None = None
    records: int | None = None

    def __post_init__(self) -> None:
        whole(self.epochs, "epochs", least=1)
        check_positive("the time of training", self.epoch_seconds)
        check_positive("the overhead of a block", self.overhead_seconds, zero=True)
        check_positive("the overhead of a pass", self.pass_seconds, zero=True)
        check_positive("the lag", self.lag)
        for size in vars(self.sizes).values() if self.sizes else ():
            check_positive("the size of a state", size, zero=True)

    def costs(self, blocks: int, *, keep: int | None = None, back: int | None = None) -> Costs:
        """What a chain costs.

        Args:
            blocks: How many an epoch is cut into.
            keep: Of how many of the last epochs every update is kept; as in the run, or what is
                usual, if None.
            back: How many of the last epochs the fast path goes back to; all of these if None.

        Raises:
            InvalidOption: There are not that many records or epochs, or a number makes no sense.
        """
        check_positive("the number of blocks", blocks)
        if blocks * self.epochs > MOST_BLOCKS:
            raise InvalidOption(
                f"{blocks * self.epochs:,} blocks are too many to simulate",
                hint=f"give {MOST_BLOCKS:,} at most, through all epochs",
            )
        if self.records is not None and blocks > self.records:
            raise InvalidOption(
                f"{blocks} blocks are more than the run's {self.records} records",
                hint="every block needs a record: give fewer blocks",
            )
        if keep is None:
            keep = self.keep or usual_keep(self.epochs)
        hint = f"it says how many of the {self.epochs} epochs, the last ones, are kept in full"
        keep = whole(keep, "keep", least=1, most=self.epochs, hint=hint)
        hint = f"a fast erasure goes back to the {keep} epochs that are kept in full: keep more"
        back = keep if back is None else whole(back, "back", least=1, most=keep, hint=hint)
        return Costs(
            blocks=blocks,
            epochs=self.epochs,
            keep=keep,
            back=back,
            block_seconds=self.epoch_seconds / blocks + self.overhead_seconds,
            pass_seconds=self.pass_seconds,
            lag=self.lag,
            disk_bytes=self.sizes.chain_bytes(
                blocks, keyframe_spacing(blocks * self.epochs), epochs=self.epochs, keep=keep
            )
            if self.sizes
            else None,
        )


def check_positive(name: str, value: float, *, zero: bool = False) -> None:
    """Refuse a number that is negative or not finite, or zero where that makes no sense.

    Raises:
        InvalidOption: It is.
    """
    if not math.isfinite(value) or value < 0 or not (value or zero):
        raise InvalidOption(
            f"{name} is {value}", hint=f"give a number {'from' if zero else 'greater than'} 0"
        )
