"""The bridge over a gap: a checkpoint that is not kept is made again from the last one that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obliviate.errors import Mismatch
from obliviate.states.update import digest
from obliviate.training.protocol import training_over

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.chain.chain import Chain
    from obliviate.events import Event
    from obliviate.training.protocol import BlockTrainer, Checkpoint, Trained


def bridging(
    chain: Chain, trainer: BlockTrainer, block: int, erased: NDArray[np.int64]
) -> Generator[Event, None, Checkpoint]:
    """P_k, by training again over the gap before it; nothing is written.

    Args:
        chain: The chain.
        trainer: What to train with.
        block: k.
        erased: Sorted ids of erased records.

    Raises:
        RunDamaged: An object is missing or changed.
        Mismatch: Trained again, a block ends in another state than the one that the ledger names.
        TrainingFailed, NotFinite: See `BlockTrainer.train`.
    """
    base = block
    while not chain.is_held(base):
        base -= 1

    def check(trained: Trained) -> None:
        if digest(trained.checkpoint.model) != chain.entries[trained.block].digest:
            raise Mismatch(
                f"trained again from block {base} on, block {trained.block} ends in another state "
                "than it did",
                hint="the environment, the recipe or the data is not what it was: go back to it, "
                "or make a new run",
            )

    start, gap = chain.checkpoint(base), range(base + 1, block + 1)
    if not gap:
        return start
    return (yield from training_over(trainer, start, gap, erased, task="bridge", check=check))
