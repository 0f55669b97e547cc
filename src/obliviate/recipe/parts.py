"""Parts: the epochs that came to a run together, with its making or by an extension.

The chain counts blocks through all epochs of all parts: block k of the chain is block
((k - 1) mod B) + 1 of epoch ((k - 1) div B) + 1, where there is one part of B blocks an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.recipe.deal import Deal, key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray


USUAL_REACH = 8
"""How many epochs a method goes back that stops by references."""

SPARSE_KEYFRAMES = 3
"""In an epoch of which not every update is kept: so much of it is trained again after a kill."""


def usual_keep(epochs: int, *, has_references: bool = False) -> int:
    """Of how many epochs every update is kept, where nobody says otherwise.

    A trace lies in the last epochs, the more of them the longer the training was. The rest of the
    disk would be spent for nothing. Where
    references say when to stop, a replay that begins further back costs others less: eight.
    """
    return min(epochs, max(USUAL_REACH if has_references else 2, -(-epochs // 5)))


def sparse_spacing(blocks: int) -> int:
    """How many blocks lie between two such keyframes, in epochs of so many."""
    return -(-blocks // SPARSE_KEYFRAMES)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some epochs over some records.

    Attributes:
        records: How many records came to the run with it.
        blocks: How many blocks each of its epochs is cut into.
        deals: How the records are dealt, epoch by epoch.
        given_up: The deals of further epochs, before which training was ended: schedules run over
            them all the same.
        keep: Of how many epochs at its end every update is kept; before, keyframes far apart.
        is_over_all: Whether its epochs go over all records that the run has by then; else over
            those that came with it.
        first_record: The id of the first record that came with it; ids follow each other.
        first_block: The number of its first block in the chain.
    """

    records: int
    blocks: int
    deals: tuple[Deal, ...]
    keep: int
    given_up: tuple[Deal, ...] = ()
    is_over_all: bool = False
    first_record: int = 0
    first_block: int = 1

    @property
    def length(self) -> int:
        """How many blocks of the chain it has."""
        return self.blocks * len(self.deals)

    @property
    def full_from(self) -> int:
        """The first block whose update is kept, as of every later one."""
        return self.first_block + (len(self.deals) - self.keep) * self.blocks

    def needs_keyframe(self, block: int) -> bool:
        """Whether one of its blocks is to have a keyframe, since its update is not kept."""
        before = self.full_from - 1 - block
        return before >= 0 and before % sparse_spacing(self.blocks) == 0

    @property
    def covered(self) -> range:
        """The ids of the records that its epochs go over."""
        return range(0 if self.is_over_all else self.first_record, self.first_record + self.records)

    @property
    def planned_sizes(self) -> NDArray[np.int64]:
        """How many records each block has of all epochs that it was made with. Shape (n,)."""
        return np.concatenate([deal.sizes for deal in (*self.deals, *self.given_up)])


def is_dealt(part: Part) -> bool:
    """Whether every epoch of a part deals all the records that it goes over to all its blocks."""
    return bool(part.deals) and all(
        deal.is_over(len(part.covered), part.blocks) for deal in (*part.deals, *part.given_up)
    )


def parts_in_order(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Parts that follow each other: the first record and block of each set."""
    placed: list[Part] = []
    record, block = 0, 1
    for part in parts:
        placed.append(replace(part, first_record=record, first_block=block))
        record, block = record + part.records, block + part.length
    return tuple(placed)


def with_part(
    parts: Sequence[Part],
    groups: NDArray[np.int64],
    *,
    records: int,
    blocks: int,
    epochs: int,
    seed: int,
    keep: int | None = None,
    is_over_all: bool = False,
) -> tuple[Part, ...]:
    """Some parts and one more.

    Args:
        parts: Those before it.
        groups: The group of every record of the run, those before it included. Shape (n,).
        records: How many records come with it.
        blocks: How many blocks each of its epochs is cut into.
        epochs: How many epochs it has.
        seed: The run's.
        keep: See `Part`; if None, what `usual_keep` says, and all where records come later and are
            trained on alone: so it stays possible to go back behind them.
        is_over_all: See `Part`.
    """
    before = sum(len(part.deals) for part in parts)
    first = 0 if is_over_all else len(groups) - records
    ids = np.arange(first, len(groups), dtype=np.int64)
    deals = tuple(
        Deal.of(ids, groups[first:], blocks, key(seed, "deal", epoch))
        for epoch in range(before, before + epochs)
    )
    if keep is None:
        keep = epochs if parts and not is_over_all else usual_keep(epochs)
    part = Part(records=records, blocks=blocks, deals=deals, keep=keep, is_over_all=is_over_all)
    return parts_in_order([*parts, part])


@dataclass(frozen=True)
class Places:
    """Where some records are trained on: once in each epoch that goes over them.

    Attributes:
        blocks: Blocks of the chain, those of a record one after the other, ascending. Shape (m,).
        first: Where in `blocks` those of each record begin. Shape (n,).
        counts: How many each record has, at least one. Shape (n,).
    """

    blocks: NDArray[np.int64]
    first: NDArray[np.int64]
    counts: NDArray[np.int64]

    def of(self, rows: Any) -> Places:
        """The places of some of the records: by a slice, a mask or indexes."""
        return Places(self.blocks, self.first[rows], self.counts[rows])

    def last(self, count: int) -> Places:
        """The last so many places of each record."""
        counts = np.minimum(self.counts, count)
        return Places(self.blocks, self.first + self.counts - counts, counts)

    @property
    def touched(self) -> NDArray[np.int64]:
        """The blocks that hold some of the records. Sorted, each once."""
        before = np.cumsum(self.counts) - self.counts
        at = np.arange(self.counts.sum()) + np.repeat(self.first - before, self.counts)
        touched: NDArray[np.int64] = np.unique(self.blocks[at])
        return touched

    @property
    def earliest(self) -> NDArray[np.int64]:
        """The first block of each record. Shape (n,)."""
        return self.blocks[self.first]

    @property
    def latest(self) -> NDArray[np.int64]:
        """The last block of each record. Shape (n,)."""
        latest: NDArray[np.int64] = self.blocks[self.first + self.counts - 1]
        return latest

    def held(self, block: int) -> NDArray[np.int64]:
        """Up to a block, the last one that holds each record; 0 where none does. Shape (n,)."""
        so_far = np.concatenate([[0], np.cumsum(self.blocks <= block)])
        count = so_far[self.first + self.counts] - so_far[self.first]
        held: NDArray[np.int64] = np.where(count > 0, self.blocks[self.first + count - 1], 0)
        return held


def places_of(
    parts: Iterable[Part], records: NDArray[np.int64], groups: NDArray[np.int64]
) -> Places:
    """Where records are trained on.

    Args:
        parts: The parts of the run.
        records: Their ids. Shape (n,).
        groups: The group of each. Shape (n,).
    """
    rows, blocks = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for part in parts:
        covered = part.covered
        its = np.flatnonzero((records >= covered.start) & (records < covered.stop))
        for epoch, deal in enumerate(part.deals):
            first = part.first_block + epoch * part.blocks
            rows.append(its)
            blocks.append(first + deal.blocks_of(records[its], groups[its]))
    row = np.concatenate(rows)
    counts = np.bincount(row, minlength=len(records))
    order = np.argsort(row, kind="stable")  # the blocks of a record come ascending
    return Places(np.concatenate(blocks)[order], np.cumsum(counts) - counts, counts)
