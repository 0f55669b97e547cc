"""The optimizer that a recipe makes, as it is before a block."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from obliviate.recipe.recipe import invalid
from obliviate.recipe.user_code import named
from obliviate.training.optimizer_state import group_numbers, packed_optimizer, unpack_optimizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from obliviate.recipe.recipe import Recipe
    from obliviate.states.update import State


class ScheduledOptimizer:
    """An optimizer of a model's parameters, whose learning rates follow the recipe's schedule.

    Attributes:
        optimizer: What the recipe made.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, packed: State | None = None) -> None:
        """Make an optimizer that is nobody else's.

        Args:
            recipe: Its factory and its schedule.
            model: Whose parameters.
            packed: Its state, where it is carried; a new one's if None.

        Raises:
            InvalidRecipe: It would train nothing, or cannot be asked for a step.
            TrainingFailed: The factory raised.
        """
        self._recipe = recipe
        with named("the optimizer's factory"):
            self.optimizer = recipe.optimizer(model.parameters())
        faults = list(optimizer_faults(self.optimizer, model, recipe))
        if faults:
            raise invalid(faults)
        groups = self.optimizer.param_groups
        self._rates: list[Any] = [group.get("lr") for group in groups]
        its = {id(each) for group in groups for each in group["params"]}
        self._others = [each for each in model.parameters() if id(each) not in its]
        self._new = group_numbers(self.optimizer)
        if packed is not None:
            unpack_optimizer(self.optimizer, packed)

    @property
    def is_learning(self) -> bool:
        """Whether some learning rate is above 0."""
        return any(group.get("lr", 1) for group in self.optimizer.param_groups)

    def set_rates(self, step: int, total_steps: int) -> None:
        """Set the learning rates to what they are at a step of the whole training."""
        if self._recipe.schedule is not None:
            factor = self._recipe.factor(step, total_steps)
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * factor

    def clear_gradients(self) -> None:
        """Leave no gradient, of parameters that the optimizer does not have either."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self._others:  # a frozen part's too: a norm over all of them counts them
            parameter.grad = None

    def step(self) -> None:
        """Make a step, by the gradients that there are."""
        self.optimizer.step()

    def packed(self) -> dict[str, Tensor] | None:
        """Its state, where the recipe says that it is carried; None where it is as a new one's."""
        if self._recipe.optimizer_state != "carried":
            return None
        self._put_rates_back()
        if not self.optimizer.state and group_numbers(self.optimizer) == self._new:
            return None
        return packed_optimizer(self.optimizer)

    def _put_rates_back(self) -> None:
        """The schedule sets them at every step: they are no state."""
        if self._recipe.schedule is not None:
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate


def moments_bytes(recipe: Recipe, model: nn.Module) -> int:
    """What a recipe's optimizer keeps of its own after a step; the gradients of a model are lost.

    Of one that makes no step without real gradients, the most that is usual: two tensors for each
    parameter.
    """
    parameters = [each for each in model.parameters() if each.requires_grad]
    try:
        optimizer = recipe.optimizer(model.parameters())
        for each in parameters:
            each.grad = torch.zeros_like(each)
        optimizer.step()
        held = [value for each in optimizer.state.values() for value in each.values()]
    except Exception:  # whatever it is: that it cannot be trained by is said elsewhere
        return 2 * sum(each.numel() * each.element_size() for each in parameters)
    tensors = [value for value in held if isinstance(value, torch.Tensor)]
    return sum(each.numel() * each.element_size() for each in tensors)


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
