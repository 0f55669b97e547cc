"""Which record is trained on where: record -> block, and its batch slot in every epoch.

Everything here is fixed when a run is made, by keyed hashes of (seed, record id) and of (seed,
epoch, record id). No content of any record enters, nor does it matter who has been erased: erasing
a record leaves its slot empty and moves nobody else. That is what makes a replay comparable, bit
for bit, with training that never saw the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def key(seed: int, *purpose: str | int) -> int:
    """A 64-bit key for one purpose, derived from the run's seed."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def keyed_hash(ids: NDArray[np.int64], key: int) -> NDArray[np.uint64]:
    """Hash each id under the key: two rounds of the splitmix64 finalizer, vectorized.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".

    Args:
        ids: Shape (n,).
        key: 64 bits, from `key`.

    Returns:
        Shape (n,), uniform over 64 bits.
    """
    value = ids.astype(np.uint64)
    for offset in (key, key ^ 0x9E3779B97F4A7C15):
        value = value + np.uint64(offset)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value = value ^ (value >> np.uint64(31))
    return value


def _shuffled(ids: NDArray[np.int64], key: int) -> NDArray[np.int64]:
    return ids[np.lexsort((ids, keyed_hash(ids, key)))]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The place of every record in the whole of training.

    Blocks differ in size by one record at most, and so do the batches of a block: no record sits in
    a small remainder where it would weigh more than others, and none is dropped.

    Attributes:
        records: How many records there are; their ids are 0..records-1.
        blocks: How many blocks they are cut into; blocks are numbered 1..blocks.
        seed: The run's seed.
        batch_size: The largest batch.
        epochs: How often each block is gone through before the next one.
        smallest_batch: Batches left with fewer records are skipped: 2 for models that cannot train
            on a single record (BatchNorm), else 1.
    """

    records: int
    blocks: int
    seed: int
    batch_size: int
    epochs: int
    smallest_batch: int = 1

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return _shuffled(np.arange(self.records, dtype=np.int64), key(self.seed, "block"))

    @cached_property
    def _bounds(self) -> NDArray[np.int64]:
        return np.arange(self.blocks + 1, dtype=np.int64) * self.records // self.blocks

    @cached_property
    def _block_of(self) -> NDArray[np.int32]:
        block_of = np.empty(self.records, dtype=np.int32)
        sizes = np.diff(self._bounds)
        block_of[self._order] = np.repeat(np.arange(1, self.blocks + 1, dtype=np.int32), sizes)
        return block_of

    @cached_property
    def _first_steps(self) -> NDArray[np.int64]:
        batches = -(-np.diff(self._bounds) // self.batch_size)
        return np.concatenate([[0], np.cumsum(batches * self.epochs)])

    def block_of(self, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """The block of each record. Shape (n,) -> (n,)."""
        return self._block_of[ids]

    def members(self, block: int) -> NDArray[np.int64]:
        """All the records of a block, erased ones too. Shape (size,)."""
        return self._order[self._bounds[block - 1] : self._bounds[block]]

    def first_step(self, block: int) -> int:
        """How many steps of the whole chain come before this block."""
        return int(self._first_steps[block - 1])

    def steps(self, block: int) -> int:
        """How many steps the block has, skipped ones included."""
        return int(self._first_steps[block] - self._first_steps[block - 1])

    @property
    def total_steps(self) -> int:
        """How many steps the whole chain has: what a learning-rate schedule runs over."""
        return int(self._first_steps[-1])

    def batches(
        self, block: int, erased: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """The batches of a block in training order, all epochs, without the erased records.

        Args:
            block: 1..blocks.
            erased: Ids of the erased records, sorted. Shape (m,).

        Yields:
            The step within the block (0-based; numbers of skipped batches are missing) and the
            batch's record ids.
        """
        members = self.members(block)
        is_retained = ~np.isin(members, erased)
        step = 0
        per_epoch = self.steps(block) // self.epochs
        for epoch in range(self.epochs):
            hashes = keyed_hash(members, key(self.seed, "slot", epoch))
            order = np.lexsort((members, hashes))
            for slots in np.array_split(order, per_epoch) if per_epoch else ():
                batch = members[slots[is_retained[slots]]]
                if len(batch) >= self.smallest_batch:
                    yield step, batch
                step += 1
