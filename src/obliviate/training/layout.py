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
    from collections.abc import Iterable, Iterator

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


def is_among(ids: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which ids are among sorted ones, however many these are. Shapes (n,), (m,) -> (n,)."""
    if not len(chosen):
        return np.zeros(len(ids), dtype=np.bool_)
    at = np.searchsorted(chosen, ids)
    found: NDArray[np.bool_] = chosen[np.minimum(at, len(chosen) - 1)] == ids
    return found


def _shuffled(ids: NDArray[np.int64], key: int) -> NDArray[np.int64]:
    return ids[np.lexsort((ids, keyed_hash(ids, key)))]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The place of records that came to a run together: with its making, or by an extension.

    Blocks differ in size by one record at most, and so do the batches of a block: no record sits in
    a small remainder where it would weigh more than others, and none is dropped.

    Attributes:
        records: How many records there are.
        blocks: How many blocks they are cut into.
        first_record: The id of the first one; ids follow each other.
        first_block: The number of the first block.
    """

    records: int
    blocks: int
    first_record: int = 0
    first_block: int = 1

    @property
    def bounds(self) -> NDArray[np.int64]:
        """Where in the order of the records each block begins, and the last one ends."""
        return np.arange(self.blocks + 1, dtype=np.int64) * self.records // self.blocks

    def order(self, seed: int) -> NDArray[np.int64]:
        """The records in the order in which they are cut into blocks. Shape (records,)."""
        ids = np.arange(self.records, dtype=np.int64) + self.first_record
        return _shuffled(ids, key(seed, "block"))


def parts_of(sizes: Iterable[tuple[int, int]]) -> tuple[Part, ...]:
    """Parts that follow each other, from how many records and blocks each has."""
    parts: list[Part] = []
    record, block = 0, 1
    for records, blocks in sizes:
        part = Part(records=records, blocks=blocks, first_record=record, first_block=block)
        parts.append(part)
        record, block = record + records, block + blocks
    return tuple(parts)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The place of every record in the whole of training.

    A part that is added later leaves the places of all earlier records as they were.

    Attributes:
        parts: What the run was made with, and what it was extended by.
        seed: The run's seed.
        batch_size: The largest batch.
        epochs: How often each block is gone through before the next one.
        block_seed: Fixes the block of every record instead of `seed`, where it is given; the batch
            slots still follow `seed`.
        smallest_batch: Batches left with fewer records are skipped: 2 for models that cannot train
            on a single record (BatchNorm), else 1.
    """

    parts: tuple[Part, ...]
    seed: int
    batch_size: int
    epochs: int
    smallest_batch: int = 1
    block_seed: int | None = None

    @property
    def records(self) -> int:
        """How many records there are; their ids are 0..records-1."""
        return sum(part.records for part in self.parts)

    @property
    def blocks(self) -> int:
        """How many blocks they are cut into; blocks are numbered 1..blocks."""
        return sum(part.blocks for part in self.parts)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        seed = self.seed if self.block_seed is None else self.block_seed
        return np.concatenate([part.order(seed) for part in self.parts])

    @cached_property
    def _bounds(self) -> NDArray[np.int64]:
        bounds = [part.bounds[:-1] + part.first_record for part in self.parts]
        return np.concatenate([*bounds, [self.records]])

    @cached_property
    def _first_steps(self) -> list[NDArray[np.int64]]:
        """For each part, how many steps of it come before each of its blocks, and in all."""
        batches = [-(-np.diff(part.bounds) // self.batch_size) for part in self.parts]
        return [np.concatenate([[0], np.cumsum(each * self.epochs)]) for each in batches]

    def _place(self, block: int) -> tuple[int, int]:
        """The part of a block, and how many of the part's blocks come before it."""
        part = max(at for at, each in enumerate(self.parts) if each.first_block <= block)
        return part, block - self.parts[part].first_block

    def all_blocks(self) -> NDArray[np.int32]:
        """The block of every record. Shape (records,)."""
        block_of = np.empty(self.records, dtype=np.int32)
        numbers = np.arange(1, self.blocks + 1, dtype=np.int32)
        block_of[self._order] = np.repeat(numbers, np.diff(self._bounds))
        return block_of

    def block_of(self, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """The block of each record. Shape (n,) -> (n,)."""
        return self.all_blocks()[ids]

    def members(self, block: int) -> NDArray[np.int64]:
        """All the records of a block, erased ones too. Shape (size,)."""
        return self._order[self._bounds[block - 1] : self._bounds[block]]

    def first_step(self, block: int) -> int:
        """How many steps of the block's part come before this block."""
        part, at = self._place(block)
        return int(self._first_steps[part][at])

    def steps(self, block: int) -> int:
        """How many steps the block has, skipped ones included."""
        part, at = self._place(block)
        return int(self._first_steps[part][at + 1] - self._first_steps[part][at])

    def total_steps(self, block: int) -> int:
        """How many steps the block's part has: what a learning-rate schedule runs over.

        Each part has a schedule of its own: were it stretched by an extension, no earlier block
        could be replayed as it was trained.
        """
        return int(self._first_steps[self._place(block)[0]][-1])

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
        is_retained = ~is_among(members, erased)
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
