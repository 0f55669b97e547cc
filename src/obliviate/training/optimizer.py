"""The optimizer that a recipe makes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from obliviate.recipe.recipe import Recipe


def optimizer_faults(optimizer: Any, model: nn.Module, recipe: Recipe) -> Iterator[str]:
    """What in an optimizer would train nothing, or cannot be asked for a step."""
    if not isinstance(optimizer, Optimizer):
        yield f"optimizer gave {type(optimizer).__name__}; it must give one torch.optim.Optimizer"
        return
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    own = {id(each) for each in model.parameters()}
    foreign = sum(id(each) not in own for each in parameters)
    if foreign:
        yield (
            f"{type(optimizer).__name__} has {foreign} of {len(parameters)} parameters that are "
            "none of the model's; make it of the parameters that the factory is called with"
        )
    if not any(each.requires_grad for each in parameters):
        yield f"{type(optimizer).__name__} has no parameter that requires a gradient"
    if recipe.schedule is not None and any("lr" not in each for each in optimizer.param_groups):
        yield f"{type(optimizer).__name__} has no learning rate (lr) that schedule could change"
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        yield (
            f"{type(optimizer).__name__} asks for the loss again in its own step (a closure); take "
            "an optimizer that works from the gradients of one pass"
        )
