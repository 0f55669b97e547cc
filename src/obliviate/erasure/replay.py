"""Replay: the states Q_k of one erasure, block after block.

First what was staged before a crash, then by training. Blocks are staged in the ledger as they
come, so that a killed erasure goes on where it was.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from obliviate.chain.reproduction import changed_records
from obliviate.events import Event
from obliviate.recipe.contents import NOTHING, without
from obliviate.states.update import update_between
from obliviate.training.protocol import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.chain.chain import Chain
    from obliviate.chain.storing import Storing
    from obliviate.ledger import Entry, Ledger
    from obliviate.recipe.contents import Hashes
    from obliviate.states.update import State, Update
    from obliviate.training.protocol import BlockTrainer, Trained


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """Q_k: a block that was trained again without the erased records.

    Attributes:
        block: Its number.
        loss: Mean training loss.
        entry: What the chain will hold of it; it may still be on its way to the disk.
        update: V'_k; None where it was staged before a crash and is not kept.
        optimizer: That before the block, where it is carried.
    """

    block: int
    loss: float | None
    entry: Future[Entry]
    update: Update | None
    optimizer: State | None


@dataclass(kw_only=True)
class Replay:
    """The blocks of one erasure that are trained again.

    Attributes:
        number: Of the erasure, in the ledger.
        erased: All erased records, those of this erasure among them; sorted.
        staged: What was replayed before a crash.
        is_exact: Whether the replay so far rests on exact states alone.
        doubts: Why nothing that is replayed can be called exact, in words.
        at: The state that the replay has come to; None where nobody needs it any more.
        written: What the chain will hold of the blocks.
        contents: What the records of blocks are from now on.
    """

    chain: Chain
    trainer: BlockTrainer
    ledger: Ledger
    number: int
    erased: NDArray[np.int64]
    staged: Mapping[int, Entry]
    is_exact: bool
    doubts: list[str]
    at: Checkpoint | None = None
    written: list[Future[Entry]] = field(default_factory=list)
    contents: dict[int, Hashes] = field(default_factory=dict)
    storing: Storing = field(init=False)

    def __post_init__(self) -> None:
        self.storing = self.chain.storing(self._commit, self.trainer.environment.threads)

    def _commit(self, entries: Sequence[Entry]) -> None:
        # others were trained again for their state alone
        if new := [entry for entry in entries if entry.block not in self.staged]:
            self.ledger.erasures.stage(new)

    def over(self, blocks: range) -> Iterator[Event | Replayed]:
        """Block after block from `at` on: first what was staged before a crash, then by training.

        `at` is Q_k then; nobody else holds on to it, or to what came of the blocks before.
        """
        restorable = self._restorable(blocks)
        for entry in restorable:
            yield self._restored(entry)
        following = blocks.start + len(restorable)
        if following == blocks.stop:
            return
        assert self.at is not None  # noqa: S101 - the last that was restored has a state
        for item in self.trainer.train(self.at, range(following, blocks.stop), self.erased):
            if isinstance(item, Event):
                if item.done == item.total:  # a copy of the state is taken next
                    self.storing.wait()
                yield item
                continue
            self._take_contents(item.block, item.contents)
            staged = [self._stage(item, self.at)]
            self.at = item.checkpoint
            del item
            yield staged.pop()

    def _restorable(self, blocks: range) -> list[Entry]:
        """What was staged, up to the last block whose state can be read."""
        entries: list[Entry] = []
        count, has_state = 0, True
        for block in blocks:
            entry = self.staged.get(block)
            if entry is None:
                break
            entries.append(entry)
            has_state = entry.keyframe is not None or (has_state and entry.update is not None)
            count = len(entries) if has_state else count
        return entries[:count]

    def _restored(self, entry: Entry) -> Replayed:
        """A block that was staged; without its update where that is not kept."""
        before, update = self.at, None
        self.is_exact &= entry.guarantee == "exact"
        self._take_contents(entry.block, NOTHING)
        self.at = None
        if entry.update is not None and before is not None:
            self.at, update = self.chain.after(before.model, entry)
        elif entry.keyframe is not None:
            self.at = self.chain.checkpoint_of(entry)
        done: Future[Entry] = Future()
        done.set_result(entry)
        return Replayed(
            block=entry.block,
            loss=entry.loss,
            entry=done,
            update=update,
            optimizer=None if before is None else before.optimizer,
        )

    def _take_contents(self, block: int, found: Hashes) -> None:
        """Compare a block's records with what they were, and forget the erased ones."""
        differing = changed_records(self.chain, self.trainer, block, found)
        if differing is not None:
            self.is_exact = False
            self.doubts.append(differing)
        known = found if len(found) else self.chain.contents(block)
        self.contents[block] = self.retained(block, known)

    def retained(self, block: int, contents: Hashes) -> Hashes:
        """What a block's records are, without the erased ones."""
        return without(contents, self.trainer.layout.members(block), self.erased)

    def _stage(self, trained: Trained, before: Checkpoint) -> Replayed:
        """Store a replayed block, though not in the chain yet, while the next one trains."""
        previous = before.model
        self.storing.wait()
        # the block before may still be on its way to the disk, and need its state
        is_used_up = not self.written or self.written[-1].done()
        update = update_between(previous, trained.checkpoint.model, consume=is_used_up)
        store = partial(
            self.chain.stored,
            replace(trained, checkpoint=Checkpoint(model=trained.checkpoint.model)),
            lambda: update,
            origin="replayed",
            guarantee="exact" if self.is_exact else "approximate",
            erasure=self.number,
            is_fast=self.storing.is_late,
        )
        return Replayed(
            block=trained.block,
            loss=trained.loss,
            entry=self.storing.put(
                trained.checkpoint.model, store, partial(self.chain.stored_moments, trained)
            ),
            update=update,
            optimizer=before.optimizer,
        )
