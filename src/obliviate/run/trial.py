"""Trying records before they are trained on: each batch is read, and its loss looked at."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from obliviate.errors import NotFinite, ObliviateError, TrainingFailed
from obliviate.events import Event
from obliviate.recipe.user_code import named
from obliviate.training.determinism import seed_generators
from obliviate.training.model import load_state
from obliviate.training.step import step_seed

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

    from obliviate.states.update import State
    from obliviate.training.layout import Microbatch
    from obliviate.training.protocol import BlockTrainer

_HINT = "mend it, or leave it out with exclude=[...], and call again; what was finished is kept"


def trying(
    trainer: BlockTrainer, state: State, blocks: range, erased: NDArray[np.int64]
) -> Generator[Event, None, None]:
    """See that every batch of some blocks can be read and gives a finite loss; train nothing.

    Each record is seen once, in its first batch, as training will see it. What goes
    astray only after steps is not found here.

    Args:
        trainer: What to try with; its live module is used.
        state: The state before the first of the blocks.
        blocks: Their numbers.
        erased: Sorted ids of records to leave out.

    Raises:
        NotFinite: A loss is NaN or infinite.
        TrainingFailed: The dataset, the model or the loss raised.
    """
    for done, block in enumerate(blocks):
        yield Event(task="try the records", done=done, total=len(blocks), block=block)
        load_state(trainer.model, state)
        trainer.model.train()
        steps_once = trainer.layout.steps_once(block)
        for each in trainer.layout.microbatches(block, erased):
            if each.step >= steps_once:
                break
            try:
                _try(trainer, block, each)
            except (NotFinite, TrainingFailed) as error:
                raise _named(error, _culprits(trainer, block, each), each.records) from error


def _try(trainer: BlockTrainer, block: int, microbatch: Microbatch) -> None:
    seed = trainer.recipe.seed
    batch = trainer.reader.of_block(block, microbatch)
    with trainer.environment.entered(), named("training"):
        seed_generators(step_seed(seed, block, microbatch), trainer.recipe.device)
        # not under no_grad: a loss may take gradients of its own
        loss = trainer.forward(batch)
        value = float(loss.detach()) if isinstance(loss, Tensor) and loss.numel() == 1 else 0.0
    if not math.isfinite(value):
        raise NotFinite(f"the loss is {value}")


def _culprits(trainer: BlockTrainer, block: int, microbatch: Microbatch) -> NDArray[np.int64]:
    """Those of a microbatch that fail by themselves; none where that tells nothing."""
    found, records = [], microbatch.records
    for record in records if len(records) > 1 else ():
        try:
            _try(trainer, block, replace(microbatch, records=np.array([record], dtype=np.int64)))
        except ObliviateError:
            found.append(record)
    return np.array(found if len(found) < len(records) else [], dtype=np.int64)


def _named(
    error: NotFinite | TrainingFailed, culprits: NDArray[np.int64], records: NDArray[np.int64]
) -> ObliviateError:
    some = culprits if len(culprits) else records
    which = f"record {some[0]}" if len(some) == 1 else f"records {', '.join(map(str, some))}"
    return type(error)(f"{which}: {error.message}", hint=_HINT)
