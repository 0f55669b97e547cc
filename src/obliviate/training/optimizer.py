"""The optimizer that a recipe makes, as it is before a block."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from obliviate.recipe.recipe import invalid
from obliviate.recipe.user_code import first_parameter, named
from obliviate.training.optimizer_state import group_numbers, packed_optimizer, unpack_optimizer
from obliviate.training.rates import Rates

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

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        packed: State | None = None,
        rates: Rates | None = None,
    ) -> None:
        """Make an optimizer that is nobody else's.

        Args:
            recipe: Its factory and its schedule.
            model: Whose parameters.
            packed: Its state, where it is carried; a new one's if None.
            rates: Those of the recipe and the model, where somebody keeps them.

        Raises:
            InvalidRecipe: It would train nothing, or cannot be asked for a step.
            TrainingFailed: The factory raised.
        """
        self._recipe, self._rates = recipe, rates or rates_of(recipe, model)
        self.optimizer = made_optimizer(recipe, model)
        faults = list(optimizer_faults(self.optimizer, model, recipe))
        if faults:
            raise invalid(faults)
        groups = self.optimizer.param_groups
        self._options = [_options(group) for group in groups]
        self._scheduled: list[dict[str, Any]] = [{} for _ in groups]
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
        """Set the learning rates to what they are at a step of the whole training.

        Whatever else the schedule moves is set with them, such as momentum.
        """
        if self._recipe.schedule is not None:
            self._scheduled = self._rates.at(step, total_steps, self._options)
            for group, scheduled in zip(self.optimizer.param_groups, self._scheduled, strict=True):
                group.update(scheduled)

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
        groups = zip(self.optimizer.param_groups, self._scheduled, self._options, strict=True)
        for group, scheduled, new in groups:
            group.update({name: new[name] for name in scheduled})


def made_optimizer(recipe: Recipe, model: nn.Module) -> Any:
    """What a recipe's factory makes of a model, or of its parameters.

    Raises:
        TrainingFailed: The factory raised.
    """
    is_of_model = first_parameter(recipe.optimizer) == "model"
    with named("the optimizer's factory"):
        made = recipe.optimizer(model if is_of_model else model.parameters())
    for group in made.param_groups if isinstance(made, Optimizer) else ():
        if isinstance(group.get("lr"), torch.Tensor):  # schedulers write into it
            group["lr"] = group["lr"].clone()
    return made


def rates_of(recipe: Recipe, model: nn.Module) -> Rates:
    """The rates by a recipe of the optimizers of a model."""
    return Rates(recipe, lambda: made_optimizer(recipe, model))


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """What a parameter group has beside its parameters; a tensor may be written into."""
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in group.items()
        if name != "params"
    }


def moments_bytes(recipe: Recipe, model: nn.Module) -> int:
    """What a recipe's optimizer keeps of its own after a step; the gradients of a model are lost.

    Of one that makes no step without real gradients, the most that is usual: two tensors for each
    parameter.
    """
    parameters = [each for each in model.parameters() if each.requires_grad]
    try:
        optimizer = made_optimizer(recipe, model)
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
