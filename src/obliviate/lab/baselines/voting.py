"""Voting: what several classifiers say together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from obliviate.errors import InvalidRecipe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

Aggregate = Literal["vote", "mean"]
"""How models are taken together: one vote for each, or the mean of their probabilities."""


def log_shares(outputs: Iterable[Tensor], aggregate: Aggregate) -> Tensor:
    """What models say together, as logarithms: softmax gives shares of votes, or probabilities.

    Between classes with as many votes, the first one wins.

    Args:
        outputs: Of each model, at least one: shape (n, classes).
        aggregate: How they are taken together.

    Returns:
        Shape (n, classes). Of a class without a vote, the logarithm of the least number there is.

    Raises:
        InvalidRecipe: These are no outputs of classifiers.
    """
    some = torch.stack([_checked(each) for each in outputs])
    if aggregate == "mean":
        return some.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(some))
    votes = torch.nn.functional.one_hot(some.argmax(dim=2), some.shape[2])
    return votes.to(some.dtype).mean(dim=0).clamp(min=torch.finfo(some.dtype).tiny).log()


def _checked(outputs: Tensor) -> Tensor:
    if outputs.ndim == 2 and outputs.is_floating_point():  # noqa: PLR2004
        return outputs
    raise InvalidRecipe(
        f"a model's outputs have the shape {list(outputs.shape)} and are {outputs.dtype}: there is "
        "no voting on them",
        hint="give a model with outputs of shape (records, classes), in floats",
    )
