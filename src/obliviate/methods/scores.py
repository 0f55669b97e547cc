"""Scores: how well a model remembers single records, as one number each, the higher the better.

The margin of the true class, z_y - logsumexp of the others, of a classifier; minus the record's own
loss otherwise; or whatever `Recipe.score` says.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from obliviate.errors import InvalidRecipe, TrainingFailed
from obliviate.methods.slices import has_rows, singles
from obliviate.recipe.user_code import named

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from obliviate.recipe.recipe import Recipe

    Kind = Literal["score", "margin", "loss", "single"]

_FEWEST_CLASSES, _LOGITS = 2, 2  # the latter: dimensions, (records, classes)


def batch_scores(
    model: nn.Module, recipe: Recipe, batch: Any, size: int, kind: Kind | None = None
) -> NDArray[np.float64]:
    """The scores of the records of a batch, which need not be finite.

    Args:
        model: In evaluation mode, on the recipe's device.
        recipe: Whose score, step or loss is taken.
        batch: The records, on that device.
        size: How many they are.
        kind: What a score is, "margin", minus a "loss" (of a "single" record at a time), "score";
            if None, what recipe and outputs allow for.

    Returns:
        Shape (n,).

    Raises:
        InvalidRecipe: The score is of a wrong shape, or the batch cannot be taken apart.
        TrainingFailed: The model, the loss or the score raised, or a loss is no scalar.
    """
    with named("scoring"):
        if recipe.score is not None:
            with torch.no_grad():
                return _as_scores(recipe.score(model, batch), size)
        if kind != "single" and _is_pair(recipe, batch):
            with torch.no_grad():
                inputs, targets = batch
                outputs = model(inputs)
                kind = kind or _kind_of_outputs(outputs, targets, size)
                if kind == "margin":
                    return margins(outputs, targets).cpu().numpy()
                if kind == "loss":
                    return -losses(recipe, outputs, targets)
        return -np.array([loss_of(model, recipe, each) for each in singles(batch, size)])


def kind_of(model: nn.Module, recipe: Recipe, batch: Any, size: int) -> Kind:
    """What a score is, as far as recipe and outputs allow for it; see `batch_scores`."""
    if recipe.score is not None:
        return "score"
    if not _is_pair(recipe, batch):
        return "single"
    inputs, targets = batch
    with named("scoring"), torch.no_grad():
        return _kind_of_outputs(model(inputs), targets, size)


def _is_pair(recipe: Recipe, batch: Any) -> bool:
    return recipe.step is None and isinstance(batch, list | tuple) and len(batch) == 2  # noqa: PLR2004


def _kind_of_outputs(outputs: Any, targets: Any, size: int) -> Kind:
    if not (has_rows(outputs, size) and has_rows(targets, size)):
        return "single"
    return "margin" if _has_margins(outputs, targets) else "loss"


def is_classification(outputs: Any, targets: Any) -> bool:
    """Whether these are logits of shape (records, classes) and an integer target for each."""
    return (
        isinstance(outputs, Tensor)
        and isinstance(targets, Tensor)
        and outputs.is_floating_point()
        and outputs.ndim == _LOGITS
        and outputs.shape[1] >= _FEWEST_CLASSES
        and targets.ndim == 1
        and not targets.is_floating_point()
        and targets.dtype != torch.bool
    )


def _has_margins(outputs: Tensor, targets: Tensor) -> bool:
    """Whether every target is one of the classes: a loss may ignore others."""
    return is_classification(outputs, targets) and bool(
        ((targets >= 0) & (targets < outputs.shape[1])).all()
    )


def is_cross_entropy(loss: Any) -> bool:
    """Whether a loss is that of a classifier by its name, whatever it was given beside."""
    while isinstance(loss, partial):
        loss = loss.func
    known = (nn.functional.cross_entropy, nn.functional.nll_loss)
    return loss in known or isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss)


def margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """z_y - logsumexp of the others: the log odds of the target. Shape (n,), double precision."""
    logits, at = outputs.double(), targets.long().unsqueeze(1)
    true = logits.gather(1, at).squeeze(1)
    return true - logits.scatter(1, at, float("-inf")).logsumexp(dim=1)


def mean_score(values: NDArray[np.float64]) -> float | None:
    """The mean over some records; None where there are none."""
    return float(values.mean()) if len(values) else None


def loss_of(model: nn.Module, recipe: Recipe, batch: Any) -> float:
    """The loss of a batch, as in training but for the mode; a step may need gradients."""
    if recipe.step is not None:
        loss = recipe.loss_of_step(model, batch)
        return float("nan") if loss is None else _scalar(loss)
    inputs, targets = batch
    assert recipe.loss is not None  # noqa: S101 - the recipe saw to it
    with torch.no_grad():
        return _scalar(recipe.loss(model(inputs), targets))


def losses(recipe: Recipe, outputs: Tensor, targets: Tensor) -> NDArray[np.float64]:
    """The loss of each record by itself. Shape (n,)."""
    assert recipe.loss is not None  # noqa: S101 - the kind says so
    rows = (slice(at, at + 1) for at in range(len(outputs)))
    return np.array([_scalar(recipe.loss(outputs[row], targets[row])) for row in rows])


def _scalar(loss: Tensor) -> float:
    if loss.numel() != 1:
        raise TrainingFailed(
            f"the loss has the shape {list(loss.shape)}, not that of a scalar",
            hint="give a loss that takes the mean over the batch, or Recipe(score=...)",
        )
    return float(loss.detach())


def _as_scores(scores: Any, size: int) -> NDArray[np.float64]:
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (size,):
        form = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores)
        raise InvalidRecipe(
            f"score gave {form} for a batch of {size} records",
            hint="it must give a tensor with one number for each record",
        )
    return scores.detach().double().cpu().numpy()
