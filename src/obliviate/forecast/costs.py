"""Costs: what chains of different numbers of blocks take, from what is known of one training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from obliviate.chain.spacing import keyframe_count, keyframe_spacing
from obliviate.erasure.plan import EXPECTED_LAG
from obliviate.errors import InvalidOption

MOST_BLOCKS = 1_000_000
PASS_SECONDS = 0.1  # planning, one commit, destroying: docs/benchmarks.md
OVERHEAD_SECONDS = 0.01  # for a replayed block: another row in the ledger, files opened and closed
READ_SECONDS = 0.0005  # for each object: opened, checked, added up
READ_SECONDS_PER_BYTE = 2e-9  # and for each of its bytes on disk
OVERHEAD_SECONDS_PER_BYTE = 1.5e-8  # the same for each byte of a state: differences, hashes, disk


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a chain of so many blocks costs.

    Attributes:
        blocks: How many.
        block_seconds: Replaying one of them: its training and everything beside.
        pass_seconds: What every pass takes on top, fast or exact.
        lag: How many blocks the fast path replays from an affected one on, itself included.
        disk_bytes: The size of the chain; None where states of unknown size are kept.
    """

    blocks: int
    block_seconds: float
    pass_seconds: float = 0.0
    lag: float = EXPECTED_LAG
    disk_bytes: float | None = None


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What is known of a training, from which the costs of any number of blocks follow.

    Assumes that training takes the same time in all, however it is cut, and that everything beside
    the training of a block takes the same time for every block. Small blocks void it: where batches
    are no longer full, training takes longer.

    Attributes:
        training_seconds: Training once on everything.
        overhead_seconds: What replaying a block takes beside its training: differences, storing.
        pass_seconds: What every pass takes on top.
        lag: How many blocks the fast path replays from an affected one on, however many there are.
        update_bytes: What is stored for every block; None where the size of a state is not known.
        keyframe_bytes: What is stored for a keyframe.
        records: How many records there are, where that is known: no chain has more blocks.
        blocks: How many blocks the run has that it was measured on; None without one.
    """

    training_seconds: float
    overhead_seconds: float = OVERHEAD_SECONDS
    pass_seconds: float = PASS_SECONDS
    lag: float = EXPECTED_LAG
    update_bytes: float | None = None
    keyframe_bytes: float | None = None
    records: int | None = None
    blocks: int | None = None

    def __post_init__(self) -> None:
        check_positive("the time of training", self.training_seconds)
        check_positive("the overhead of a block", self.overhead_seconds, zero=True)
        check_positive("the overhead of a pass", self.pass_seconds, zero=True)
        check_positive("the lag", self.lag)
        for size in (self.update_bytes, self.keyframe_bytes):
            if size is not None:
                check_positive("the size of a state", size)

    def costs(self, blocks: int, keyframes: int) -> Costs:
        """What a chain of so many blocks and keyframes costs.

        Raises:
            InvalidOption: There are not that many records, or the number makes no sense.
        """
        check_positive("the number of blocks", blocks)
        if blocks > MOST_BLOCKS:
            raise InvalidOption(
                f"{blocks:,} blocks are too many to simulate", hint=f"give {MOST_BLOCKS:,} at most"
            )
        if self.records is not None and blocks > self.records:
            raise InvalidOption(
                f"{blocks} blocks are more than the run's {self.records} records",
                hint="every block needs a record: give fewer blocks",
            )
        is_known = self.update_bytes is not None and self.keyframe_bytes is not None
        return Costs(
            blocks=blocks,
            block_seconds=self.training_seconds / blocks + self.overhead_seconds,
            pass_seconds=self.pass_seconds,
            lag=self.lag,
            disk_bytes=blocks * (self.update_bytes or 0) + keyframes * (self.keyframe_bytes or 0)
            if is_known
            else None,
        )


@dataclass(frozen=True, kw_only=True)
class Trade:
    """Disk for time: what a chain takes, and how long restoring its farthest state does.

    Attributes:
        blocks: How many the chain has.
        spacing: How many of them lie between two keyframes.
        disk_bytes: The size of the chain.
        restore_seconds: One keyframe, and every update up to the next.
        keyframes: How many an erasure of the first block would have to rewrite.
    """

    blocks: int
    spacing: int
    disk_bytes: float
    restore_seconds: float
    keyframes: int


def trades(basis: Basis, blocks: int) -> tuple[Trade, ...]:
    """Half the usual spacing of keyframes, the usual one, and no keyframe but the last.

    There are none where sizes are not known.
    """
    if basis.update_bytes is None or basis.keyframe_bytes is None:
        return ()
    usual = keyframe_spacing(blocks)
    choices = []
    for spacing in sorted({max(1, usual // 2), min(usual, blocks), blocks}):
        keyframes = keyframe_count(blocks, spacing)
        read_bytes = basis.keyframe_bytes + (spacing - 1) * basis.update_bytes
        choices.append(
            Trade(
                blocks=blocks,
                spacing=spacing,
                disk_bytes=blocks * basis.update_bytes + keyframes * basis.keyframe_bytes,
                restore_seconds=spacing * READ_SECONDS + read_bytes * READ_SECONDS_PER_BYTE,
                keyframes=keyframes - 1,
            )
        )
    return tuple(choices)


def check_positive(name: str, value: float, *, zero: bool = False) -> None:
    """Refuse a number that is negative or not finite, or zero where that makes no sense.

    Raises:
        InvalidOption: It is.
    """
    if not math.isfinite(value) or value < 0 or not (value or zero):
        raise InvalidOption(
            f"{name} is {value}", hint=f"give a number {'from' if zero else 'greater than'} 0"
        )
