"""Repair: lost objects of a vault are made again, and are what they were, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from obliviate.chain.bridge import bridging
from obliviate.chain.inventory import losses
from obliviate.chain.walk import Walk
from obliviate.errors import Mismatch
from obliviate.events import Event, finish
from obliviate.states.update import digest, update_between
from obliviate.training.protocol import Checkpoint, trained_block

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.chain.chain import Chain
    from obliviate.chain.inventory import Lost, Remedy, Role
    from obliviate.ledger import Entry
    from obliviate.training.protocol import BlockTrainer

_WAITING = "holds records of an erasure that is not finished: finish it, then repair"


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What came of it.

    Attributes:
        rebuilt: Blocks whose lost objects are there again.
        left: Why others are not, by block.
    """

    rebuilt: tuple[int, ...]
    left: dict[int, str]


def repairing(
    chain: Chain, trainer: BlockTrainer, erased: NDArray[np.int64], waiting: frozenset[int]
) -> Generator[Event, None, Repair]:
    """Make lost objects of the chain again, from the first block on; under the lease.

    Args:
        chain: The chain.
        trainer: What to replay with.
        erased: Sorted ids of erased records.
        waiting: Blocks that hold records of an erasure that has not been carried out yet.
    """
    rebuilding = _Rebuilding(chain, Walk(chain), trainer, erased)
    lost: dict[int, list[Lost]] = {}
    for each in (yield from losses(chain)):
        lost.setdefault(each.block, []).append(each)
    rebuilt: list[int] = []
    left: dict[int, str] = {}
    for done, (block, objects) in enumerate(sorted(lost.items())):
        yield Event(task="repair", done=done, total=len(lost), block=block)
        remedy, reason = objects[0].remedy, objects[0].reason
        if remedy == "settle" or block in waiting:
            left[block] = _WAITING if block in waiting else reason
            continue
        try:
            entry = rebuilding.entry(block, {each.role for each in objects}, remedy)
        except Mismatch as error:
            left[block] = error.message
        else:
            chain.restore(entry)
            rebuilt.append(block)
    return Repair(rebuilt=tuple(rebuilt), left=left)


@dataclass(frozen=True)
class _Rebuilding:
    chain: Chain
    walk: Walk
    trainer: BlockTrainer
    erased: NDArray[np.int64]

    def entry(self, block: int, roles: set[Role], remedy: Remedy) -> Entry:
        """The entry of a block, its lost objects of these roles stored anew."""
        chain, entry = self.chain, self.chain.entries[block]
        before = self.before(block) if block else Checkpoint(model={})
        made = self.checkpoint(before, block, remedy)
        after = digest(made.model)
        if after != entry.digest:
            raise Mismatch(
                f"made again, block {block} has digest {after[:12]}, not {str(entry.digest)[:12]}: "
                "the environment, the data or the recipe is another than it was"
            )
        if "keyframe" in roles:
            entry = replace(entry, keyframe=chain.keep(made.model, is_initial=block == 0))
        if "optimizer" in roles and made.optimizer is not None:
            entry = replace(entry, optimizer=chain.keep_optimizer(made.optimizer))
        if "update" in roles and block:
            update = update_between(before.model, made.model)
            entry = replace(entry, update=chain.keep_update(update))
        return entry

    def before(self, block: int) -> Checkpoint:
        """The checkpoint before a block, made again where it is not kept."""
        if self.chain.is_held(block - 1):
            return self.walk.checkpoint(block - 1)
        return finish(bridging(self.chain, self.trainer, block - 1, self.erased))

    def checkpoint(self, before: Checkpoint, block: int, remedy: Remedy) -> Checkpoint:
        """The checkpoint of a block, made again."""
        if remedy == "join":
            return Checkpoint(model=self.chain.state(block))
        return trained_block(self.trainer, block, lambda: before, self.erased).checkpoint
