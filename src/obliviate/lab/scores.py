"""Scores: what a model makes of single records, as one number each, higher where it fits better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from obliviate.errors import TrainingFailed
from obliviate.lab.accuracy import is_classification
from obliviate.methods.scores import margins, singles
from obliviate.recipe.user_code import named
from obliviate.training.batches import moved
from obliviate.training.determinism import seed_generators

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from obliviate.recipe.recipe import Recipe
    from obliviate.training.batches import Feed

_RECORDS_AT_ONCE = 500
_LARGEST = 1e6  # what stands for a score that is not finite: a broken model must look bad


def scores(
    model: nn.Module, recipe: Recipe, feed: Feed, records: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The score of each record under a model in eval mode.

    What `Recipe.score` says; else a classifier's margin, or minus the loss of the record.

    Args:
        model: In eval mode, on the recipe's device.
        recipe: Whose score, step or loss is taken.
        feed: Where the records are.
        records: Their ids; shape (n,).

    Returns:
        Shape (n,); a score that is not finite becomes one that is very large.

    Raises:
        TrainingFailed: The dataset, the model or the loss raised, or the loss of a record is no
            scalar.
    """
    found = []
    seed_generators(recipe.seed, recipe.device)
    with torch.no_grad(), named("scoring records"):
        for start in range(0, len(records), _RECORDS_AT_ONCE):
            some = records[start : start + _RECORDS_AT_ONCE]
            batch = moved(feed.batch(some, recipe.seed), recipe.device)
            found.append(_of_batch(model, recipe, batch, len(some)))
    values = torch.cat(found).double().cpu().numpy() if found else np.empty(0)
    return np.nan_to_num(values, nan=-_LARGEST, posinf=_LARGEST, neginf=-_LARGEST)


def _of_batch(model: nn.Module, recipe: Recipe, batch: Any, size: int) -> Tensor:
    if recipe.score is not None:
        return recipe.score(model, batch)
    if recipe.step is not None:
        losses = [recipe.step(model, each) for each in singles(batch, size)]
        nothing = torch.tensor(float("nan"))  # where a step found nothing to learn
        return torch.stack([nothing if each is None else _scalar(-each) for each in losses])
    inputs, targets = batch
    outputs = model(inputs)
    if is_classification(outputs, targets):
        return margins(outputs, targets)
    assert recipe.loss is not None  # noqa: S101 - the recipe saw to it
    loss, pairs = recipe.loss, zip(singles(outputs, size), singles(targets, size), strict=True)
    return torch.stack([_scalar(-loss(*pair)) for pair in pairs])


def _scalar(loss: Tensor) -> Tensor:
    if loss.numel() != 1:
        raise TrainingFailed(
            f"the loss of one record has the shape {list(loss.shape)}, not that of a scalar",
            hint="give a loss that takes the mean over the batch, or Recipe(score=...)",
        )
    return loss.reshape(())
