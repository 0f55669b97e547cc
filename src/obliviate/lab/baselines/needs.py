"""What a baseline needs of a project: looked at on one batch, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from obliviate.errors import Unsupported
from obliviate.lab.baselines.texts import predicted, text_losses
from obliviate.methods.scores import is_classification
from obliviate.recipe.deal import key
from obliviate.recipe.user_code import named
from obliviate.training.determinism import seed_generators
from obliviate.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from obliviate.training.protocol import BlockTrainer

    Need: TypeAlias = "Callable[[Sample], str]"

_PAIR, _TEXTS = 2, 3  # the latter: dimensions, (texts, tokens, vocabulary)
_TOLERANCE = 0.1


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


def learning_rate(sample: Sample) -> str:
    """Optimizers with a learning rate."""
    groups = sample.trainer.optimizer(None).groups
    return "" if all("lr" in each for each in groups) else "an optimizer with a learning rate"


def steps(sample: Sample) -> str:
    """A trainer whose steps can be looked at, one by one."""
    if isinstance(sample.trainer, Trainer):
        return ""
    return "single steps, which the trainer of this recipe does not show"


def no_averages(sample: Sample) -> str:
    """Weights that are served as they were trained."""
    if sample.trainer.recipe.ema is None:
        return ""
    return "the weights themselves, where the recipe serves averages of them (ema)"


def next_tokens(sample: Sample) -> str:
    """A causal language model, trained by the mean cross entropy of the next tokens."""
    batch, trainer = sample.batch, sample.trainer
    if not (isinstance(batch, Mapping) and "labels" in batch) and not is_pair(batch):
        return "a language model: batches of (inputs, targets), or mappings with labels"
    model = trainer.model.eval()
    logits, targets = predicted(model, batch)
    if not _are_texts(logits, targets):
        return "a language model: outputs of shape (texts, tokens, vocabulary)"
    mean = text_losses(model, batch).sum() / max(int((targets >= 0).sum()), 1)
    loss = trainer.forward(batch)
    if loss is None or not _have_same_gradient(loss, mean, model):
        return "a loss that is the mean cross entropy of the next tokens"
    return ""


def _have_same_gradient(loss: Tensor, other: Tensor, model: nn.Module) -> bool:
    """Whether two losses train alike: of a model that is new, their values say little."""
    weights = [each for each in model.parameters() if each.requires_grad]
    own, others = (
        torch.autograd.grad(each, weights, allow_unused=True, materialize_grads=True)
        for each in (loss, other)
    )
    apart = sum(float((left - right).norm()) for left, right in zip(own, others, strict=True))
    return apart <= _TOLERANCE * sum(float(each.norm()) for each in others)


def _are_texts(logits: Any, targets: Any) -> bool:
    return (
        isinstance(logits, Tensor)
        and isinstance(targets, Tensor)
        and logits.is_floating_point()
        and logits.ndim == _TEXTS
        and targets.shape == logits.shape[:2]
        and targets.dtype == torch.int64
    )


def is_pair(batch: Any) -> bool:
    """Whether a batch is (inputs, targets)."""
    return isinstance(batch, list | tuple) and len(batch) == _PAIR
