"""Scores of any number of records, read as they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from obliviate.methods.scores import batch_scores
from obliviate.recipe.user_code import named
from obliviate.training.batches import moved
from obliviate.training.determinism import seed_generators

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from obliviate.methods.scores import Kind
    from obliviate.recipe.recipe import Recipe
    from obliviate.training.batches import Feed

_RECORDS_AT_ONCE = 500
_LARGEST = 1e6  # what stands for a score that is not finite: a broken model must look bad


def scores(
    model: nn.Module,
    recipe: Recipe,
    feed: Feed,
    records: NDArray[np.int64],
    *,
    kind: Kind | None = None,
) -> NDArray[np.float64]:
    """The score of each record under a model in eval mode.

    What `Recipe.score` says; else a classifier's margin, whatever it was trained by, or minus the
    loss of the record.

    Args:
        model: In eval mode, on the recipe's device.
        recipe: Whose score, step or loss is taken.
        feed: Where the records are.
        records: Their ids; shape (n,).
        kind: What a score is; see `batch_scores`.

    Returns:
        Shape (n,); a score that is not finite becomes one that is very large.

    Raises:
        InvalidRecipe, TrainingFailed: The dataset, the model or the loss raised, or the loss of a
            record is no scalar.
    """
    parts = [np.empty(0)]
    seed_generators(recipe.seed, recipe.device)
    for start in range(0, len(records), _RECORDS_AT_ONCE):
        ids = records[start : start + _RECORDS_AT_ONCE]
        with named("scoring records"):
            batch = moved(feed.batch(ids, recipe.seed), recipe.device)
        parts.append(batch_scores(model, recipe, batch, len(ids), kind))
    return np.nan_to_num(np.concatenate(parts), nan=-_LARGEST, posinf=_LARGEST, neginf=-_LARGEST)
