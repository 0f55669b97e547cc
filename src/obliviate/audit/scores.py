"""Scores: what a model makes of single records, as one number each, higher where it fits better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from obliviate.audit.accuracy import is_classification
from obliviate.environment import seed_generators
from obliviate.errors import TrainingFailed
from obliviate.training import moved, named

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from obliviate.feed import Feed
    from obliviate.recipe import Recipe

_RECORDS_AT_ONCE = 500
_LARGEST = 1e6  # what stands for a score that is not finite: a broken model must look bad


def margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """z_y - logsumexp of the others: the logit of the confidence in the true class.

    Args:
        outputs: Logits, shape (records, classes).
        targets: Classes, shape (records,).

    Returns:
        Shape (records,).
    """
    own = outputs.gather(1, targets.unsqueeze(1)).squeeze(1)
    others = outputs.scatter(1, targets.unsqueeze(1), float("-inf"))
    return own - others.logsumexp(dim=1)


def scores(
    model: nn.Module, recipe: Recipe, feed: Feed, records: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The score of each record under a model in eval mode: its margin, else minus its loss.

    Args:
        model: In eval mode, on the recipe's device.
        recipe: Whose loss or step is taken, record by record, where this is no classification.
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
    if recipe.step is not None:
        step = recipe.step
        return torch.stack([_scalar(-step(model, _rows(batch, at))) for at in range(size)])
    inputs, targets = batch
    outputs = model(inputs)
    if is_classification(outputs, targets):
        return margins(outputs, targets)
    assert recipe.loss is not None  # noqa: S101 - the recipe saw to it
    loss = recipe.loss
    return torch.stack(
        [_scalar(-loss(_rows(outputs, at), _rows(targets, at))) for at in range(size)]
    )


def _rows(batch: Any, at: int) -> Any:
    """A batch of the one record at a place."""
    if isinstance(batch, dict):
        return {name: _rows(value, at) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        values = [_rows(value, at) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else values
    return batch[at : at + 1]


def _scalar(loss: Tensor) -> Tensor:
    if loss.numel() != 1:
        raise TrainingFailed(
            f"the loss of one record has the shape {list(loss.shape)}, not that of a scalar",
            hint="give a loss that takes the mean over the batch",
        )
    return loss.reshape(())
