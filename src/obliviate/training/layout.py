"""Which record is trained on where: in each epoch its block, and its batch in every pass over that.

Everything here is fixed when a run is made, by keyed hashes of seed, epoch, person and record. No
content of any record enters, nor does it matter who has been erased: erasing a record leaves its
slot empty and moves nobody else. That is what makes a replay comparable, bit for bit, with training
that never saw the record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from obliviate.recipe.deal import is_among, key, keyed_hash
from obliviate.recipe.parts import places_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from obliviate.recipe.parts import Part, Places

_EPOCHS_HELD = 4  # whose order is kept in memory


@dataclass(frozen=True, kw_only=True, eq=False)
class Microbatch:
    """Records that go through the model together: a batch, or a part of one.

    Attributes:
        step: The number of the batch in the block, from 0.
        number: Its own in the batch, from 0.
        records: Ids. Shape (n,).
    """

    step: int
    number: int
    records: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The place of every record in the whole of training.

    A part that is added later leaves the places of all earlier records as they were. The batches of
    a block differ in size by one record at most: no record sits in a small remainder where it would
    weigh more than others, and none is dropped.

    Attributes:
        parts: What the run was made with, and what it was extended by.
        seed: The run's seed.
        batch_size: The largest batch.
        repeats: How often each block is gone through before the next one.
        smallest_batch: Microbatches left with fewer records are skipped: 2 for models that cannot
            train on a single record (BatchNorm), else 1.
        microbatch_count: How many microbatches a batch is cut into: its slots, before erasures.
        grouping: Gives the group of every record: those who stay together; each for itself if None.
    """

    parts: tuple[Part, ...]
    seed: int
    batch_size: int
    repeats: int = 1
    smallest_batch: int = 1
    microbatch_count: int = 1
    grouping: Callable[[], NDArray[np.int64]] | None = None
    _orders: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def records(self) -> int:
        """How many records there are; their ids are 0..records-1."""
        return sum(part.records for part in self.parts)

    @property
    def blocks(self) -> int:
        """How many blocks the chain has, through all epochs; they are numbered 1..blocks."""
        return sum(part.length for part in self.parts)

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """The group of every record. Shape (records,)."""
        if self.grouping is None:
            return np.arange(self.records, dtype=np.int64)
        return self.grouping()

    @cached_property
    def _first_steps(self) -> list[NDArray[np.int64]]:
        """For each part, how many steps of it come before each of its blocks, and in all."""
        batches = [-(-part.planned_sizes // self.batch_size) for part in self.parts]
        return [np.concatenate([[0], np.cumsum(each * self.repeats)]) for each in batches]

    def _place(self, block: int) -> tuple[int, int]:
        """The part of a block, and how many of the part's blocks come before it."""
        part = max(at for at, each in enumerate(self.parts) if each.first_block <= block)
        return part, block - self.parts[part].first_block

    def epochs(self, blocks: Iterable[int]) -> int:
        """In how many epochs some blocks lie."""
        places = map(self._place, blocks)
        return len({(at, before // self.parts[at].blocks) for at, before in places})

    def places(self, ids: NDArray[np.int64]) -> Places:
        """Where records are trained on. Shape (n,)."""
        return places_of(self.parts, ids, self.groups[ids])

    def members(self, block: int) -> NDArray[np.int64]:
        """All the records of a block, erased ones too. Shape (size,)."""
        at, before = self._place(block)
        part = self.parts[at]
        epoch, number = divmod(before, part.blocks)
        order, bounds = self._order(part, epoch)
        return order[bounds[number] : bounds[number + 1]]

    def _order(self, part: Part, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The records of an epoch, block by block, and where each of the blocks begins."""
        held = part.first_block + epoch * part.blocks
        if held not in self._orders:
            while len(self._orders) >= _EPOCHS_HELD:
                self._orders.pop(next(iter(self._orders)))
            ids = np.arange(part.covered.start, part.covered.stop, dtype=np.int64)
            blocks = part.deals[epoch].blocks_of(ids, self.groups[ids])
            bounds = np.concatenate([[0], np.cumsum(np.bincount(blocks, minlength=part.blocks))])
            self._orders[held] = ids[np.argsort(blocks, kind="stable")], bounds
        return self._orders[held]

    def first_step(self, block: int) -> int:
        """How many steps of the block's part come before this block."""
        part, at = self._place(block)
        return int(self._first_steps[part][at])

    def steps(self, block: int) -> int:
        """How many steps the block has, skipped ones included."""
        part, at = self._place(block)
        return int(self._first_steps[part][at + 1] - self._first_steps[part][at])

    def steps_once(self, block: int) -> int:
        """How many steps going through the block once takes."""
        return self.steps(block) // self.repeats

    def total_steps(self, block: int) -> int:
        """How many steps the block's part has: what a learning-rate schedule runs over.

        Each part has a schedule of its own: were it stretched by an extension, no earlier block
        could be replayed as it was trained.
        """
        return int(self._first_steps[self._place(block)[0]][-1])

    def batches(
        self, block: int, erased: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """The batches of a block in training order, all repeats, without the erased records.

        Args:
            block: 1..blocks.
            erased: Ids of the erased records, sorted. Shape (m,).

        Yields:
            The step within the block (0-based; numbers of skipped batches are missing) and the
            record ids of the batch, microbatch by microbatch.
        """
        steps = groupby(self.microbatches(block, erased), attrgetter("step"))
        for step, microbatches in steps:
            yield step, np.concatenate([each.records for each in microbatches])

    def microbatches(self, block: int, erased: NDArray[np.int64]) -> Iterator[Microbatch]:
        """The microbatches of a block in training order; see `batches`."""
        members = self.members(block)
        is_retained = ~is_among(members, erased)
        step, steps_once = 0, self.steps_once(block)
        for repeat in range(self.repeats):
            hashes = keyed_hash(members, key(self.seed, "slot", block, repeat))
            order = np.lexsort((members, hashes))
            for slots in np.array_split(order, steps_once) if steps_once else ():
                for number, few in enumerate(np.array_split(slots, self.microbatch_count)):
                    records = members[few[is_retained[few]]]
                    if len(records) >= self.smallest_batch:
                        yield Microbatch(step=step, number=number, records=records)
                step += 1
