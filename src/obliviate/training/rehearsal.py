"""Rehearsal: all ranks make the first steps together, before anything is written.

What they cannot share out shows in them, whatever it is, and so does a training that has other bits
on several ranks than in one process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from obliviate.errors import NotDeterministic, ObliviateError
from obliviate.text import counted
from obliviate.training.first_step import first_microbatches
from obliviate.training.shareable import check_model
from obliviate.training.sharing import Shared
from obliviate.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.training.layout import Microbatch
    from obliviate.training.messages import Message
    from obliviate.training.protocol import BlockTrainer, Tried
    from obliviate.training.ranks import Ranks

_STEPS = 2  # of which the second begins with what the first has left


def rehearse(ranks: Ranks, trainer: BlockTrainer, erased: NDArray[np.int64]) -> None:
    """Make the first steps alone, then together; all ranks call it at the same time.

    Args:
        ranks: Who takes part.
        trainer: What trains on this rank; the steps are no part of training.
        erased: Sorted ids of records to leave out.

    Raises:
        NotDeterministic: A rank comes to something else than rank 0, or all of them together to
            something else than one process.
        ObliviateError: What went wrong on any of them, on all alike.
    """
    assert isinstance(trainer, Trainer)  # noqa: S101 - recipes with another one were refused
    sharing = Shared(ranks, trainer.recipe, trainer.layout, erased)
    with sharing.attempt():
        check_model(trainer.model)
        block, first = first_microbatches(trainer, erased)
        if not first:  # nothing is left that could be trained on
            return
        steps = sorted({each.step for each in first})[:_STEPS]
        first = [each for each in first if each.step in steps]
        alone = _alone(trainer, block, first)
    together = trainer.try_steps(trainer.initial(), block, first, sharing)
    ranks.agree(None, {"alone": vars(alone), "together": vars(together)}, check=_unlike)


def _alone(trainer: Trainer, block: int, first: Sequence[Microbatch]) -> Tried:
    initial = trainer.initial()
    tried = trainer.try_steps(initial, block, first)
    if trainer.parameters | trainer.buffers <= initial.model.keys():
        return tried
    # what is frozen and was written to is known from now on, and is exchanged as buffers are
    return trainer.try_steps(trainer.initial(), block, first)


def _unlike(told: Sequence[Message]) -> ObliviateError | None:
    alone = told[0].words["alone"]
    for rank, each in enumerate(told):
        if each.words["alone"] != alone:
            return NotDeterministic(
                f"the first steps give another result on rank {rank} than on rank 0",
                hint="all ranks need the same hardware and libraries; draw randomness from the "
                "global generators of torch, numpy and Python alone",
            )
    if all(each.words["together"] == alone for each in told):
        return None
    return NotDeterministic(
        f"the first steps give another result on {counted(len(told), 'rank')} than in one process",
        hint="keep in buffers what a module leaves for later batches: in plain attributes, each "
        "rank has what its own microbatches left; or train in one process",
    )
