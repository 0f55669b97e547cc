"""Finishing: what a stitched state of one erasure is finished with, and judged by."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from obliviate.methods.buffers import batch_norm_statistics, buffers_apart
from obliviate.methods.soundness import Finish

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from obliviate.chain.chain import Chain
    from obliviate.states.update import State
    from obliviate.training.protocol import BlockTrainer

MEASURED_BLOCKS = 4  # running statistics are measured on the last so many replayed blocks


def finish_of(
    chain: Chain,
    trainer: BlockTrainer,
    erased: NDArray[np.int64],
    replayed: State,
    *,
    blocks: range,
    until: int,
) -> Finish:
    """What finishes and judges the state at the end of a stitch.

    Args:
        chain: As it was before the erasure.
        trainer: Whose model and data to use.
        erased: All erased records; sorted.
        replayed: Q_e.
        blocks: Those that were replayed before the stitch, up to e.
        until: The last block of the stitch.
    """
    statistics = batch_norm_statistics(trainer.model)
    apart = {name: replayed[name] for name in statistics & trainer.buffers}
    if others := trainer.buffers - statistics:
        original = chain.state(blocks[-1])
        differ = buffers_apart(others, original, replayed)
        apart |= {name: original[name] for name in sorted(differ)}
    return Finish(
        trainer,
        blocks[-MEASURED_BLOCKS:],
        erased,
        replayed=replayed,
        apart=apart,
        original=partial(chain.state, until),
        until=until,
        is_last=until == chain.length,
    )
