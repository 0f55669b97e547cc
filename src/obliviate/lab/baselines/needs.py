"""What a baseline needs of a project: looked at on one batch, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from obliviate.errors import Unsupported
from obliviate.methods.scores import is_classification
from obliviate.recipe.deal import key
from obliviate.recipe.user_code import named
from obliviate.training.determinism import seed_generators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from obliviate.training.protocol import BlockTrainer

    Need: TypeAlias = "Callable[[Sample], str]"

_PAIR = 2


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A batch of a project, and what trains on it.

    Attributes:
        trainer: Its live module is a new one, in training mode.
        batch: The batch, on the recipe's device.
    """

    trainer: BlockTrainer
    batch: Any


def check_needs(name: str, trainer: BlockTrainer, needs: Iterable[Need]) -> None:
    """See that a project has what a baseline needs.

    Args:
        name: Of the baseline.
        trainer: What trains by the project's recipe; nothing was trained yet.
        needs: What is needed.

    Raises:
        Unsupported: Something is missing; all that is, in one message.
        TrainingFailed: The dataset, the model or the loss raised.
    """
    needs = list(needs)
    if not needs:
        return
    recipe, layout = trainer.recipe, trainer.layout
    nobody = np.empty(0, dtype=np.int64)
    block, first = next(
        (block, each)
        for block in range(1, layout.blocks + 1)
        for each in layout.microbatches(block, nobody)
    )
    sample = Sample(trainer=trainer, batch=trainer.reader.of_block(block, first))
    with trainer.environment.entered(), named(f"a batch for the baseline {name}"):
        seed_generators(key(recipe.seed, "needs"), recipe.device)
        trainer.model.train()
        missing = list(filter(None, (need(sample) for need in needs)))
    if missing:
        raise Unsupported(
            f"the baseline {name} needs " + "; ".join(missing),
            hint="choose another baseline; `retrain` works with any project",
        )


def gradient(sample: Sample) -> str:
    """A loss that a gradient can be taken of, for a batch by itself."""
    loss = sample.trainer.forward(sample.batch)
    if isinstance(loss, Tensor) and loss.requires_grad:
        return ""
    if sample.trainer.recipe.is_manual:
        return "a loss with a gradient, which a step that makes its own steps does not give"
    return "a loss with a gradient, which the trainer of this recipe does not give"


def classes(sample: Sample) -> str:
    """A classifier: batches of (inputs, targets), and logits of shape (records, classes)."""
    if not is_pair(sample.batch):
        return "classification: batches of (inputs, targets)"
    inputs, targets = sample.batch
    with torch.no_grad():
        outputs = sample.trainer.model(inputs)
    if is_classification(outputs, targets):
        return ""
    return "classification: outputs of shape (records, classes), and an integer target for each"


def is_pair(batch: Any) -> bool:
    """Whether a batch is (inputs, targets)."""
    return isinstance(batch, list | tuple) and len(batch) == _PAIR
