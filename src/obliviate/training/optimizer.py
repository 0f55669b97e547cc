"""The optimizers that a recipe makes, as they are before a block."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from obliviate.recipe.recipe import invalid
from obliviate.recipe.user_code import first_parameter, named
from obliviate.training.optimizer_state import (
    check_attributes,
    group_numbers,
    packed_optimizer,
    unpack_optimizer,
)
from obliviate.training.rates import Rates

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from obliviate.recipe.recipe import Recipe
    from obliviate.states.update import State


class ScheduledOptimizer:
    """The optimizers of a model's parameters, whose learning rates follow the recipe's schedule.

    Attributes:
        optimizers: What the recipe made: one, or several that make their steps together.
        scaler: Scales the loss in fp16, and skips a step whose gradients overflow; does nothing in
            another precision.
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
        self.optimizers = made_optimizers(recipe, model)
        faults = list(optimizer_faults(self.optimizers, model, recipe))
        if faults:
            raise invalid(faults)
        kind = torch.device(recipe.device).type
        self.scaler = GradScaler(kind, enabled=recipe.precision == "fp16")
        self._options = [_options(group) for group in self.groups]
        self._scheduled: list[dict[str, Any]] = [{} for _ in self.groups]
        its = {id(each) for group in self.groups for each in group["params"]}
        self._parameters = list(model.parameters())
        self._others = [each for each in self._parameters if id(each) not in its]
        self._steps = steps = _Steps()
        for at, each in enumerate(self.optimizers):  # hooks do not know self: moments are large
            each.register_step_post_hook(lambda optimizer, *_, at=at: steps.note(at, optimizer))
        self._new = group_numbers(self.optimizers), self.scaler.state_dict()
        if packed is not None:
            unpack_optimizer(self.optimizers, packed, self.scaler)

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimizers, in order."""
        return [group for each in self.optimizers for group in each.param_groups]

    @property
    def is_learning(self) -> bool:
        """Whether a step was made, and some learning rate is above 0."""
        return self._steps.is_any and any(group.get("lr", 1) for group in self.groups)

    @property
    def unused(self) -> tuple[str, ...]:
        """Of several optimizers, those that made no step with a gradient yet."""
        if len(self.optimizers) == 1:
            return ()
        return tuple(
            f"number {at} of {len(self.optimizers)} ({type(each).__name__})"
            for at, each in enumerate(self.optimizers, 1)
            if at - 1 not in self._steps.used
        )

    def set_rates(self, step: int, total_steps: int) -> None:
        """Set the learning rates to what they are at a step of the whole training.

        Whatever else the schedule moves is set with them, such as momentum.
        """
        if self._recipe.schedule is not None:
            self._scheduled = self._rates.at(step, total_steps, self._options)
            for group, scheduled in zip(self.groups, self._scheduled, strict=True):
                group.update(scheduled)

    def clear_gradients(self) -> None:
        """Leave no gradient, of parameters that no optimizer has either."""
        for each in self.optimizers:
            each.zero_grad(set_to_none=True)
        for parameter in self._others:  # a frozen part's too: a norm over all of them counts them
            parameter.grad = None

    def begin_scaling(self) -> None:
        """Have a scale, also on a rank that has no loss to scale."""
        if self.scaler.is_enabled():
            self.scaler.scale(torch.zeros((), device=self._recipe.device))

    def step(self) -> None:
        """Make a step, by the gradients that there are; in fp16, only where they are finite."""
        used = {at for at, each in enumerate(self.optimizers) if _has_gradient(each)}
        self._steps.used |= used
        # the scaler can do nothing for an optimizer that has no gradient
        is_any = not self.scaler.is_enabled()
        ready = [each for at, each in enumerate(self.optimizers) if is_any or at in used]
        if self._recipe.clip_norm is not None:
            for each in ready:
                self.scaler.unscale_(each)
            nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip_norm)
        for each in ready:
            self.scaler.step(each)
        if ready:
            self.scaler.update()

    def packed(self) -> dict[str, Tensor] | None:
        """Its state, where the recipe says that it is carried; None where it is as a new one's.

        Its very tensors are handed over: no step may follow.
        """
        packed = self._packed() if self._recipe.optimizer_state == "carried" else None
        self.release()
        return packed

    def release(self) -> None:
        """Let go of gradients and moments, each as large as the model; no step may follow."""
        self.clear_gradients()
        for each in self.optimizers:
            each.state.clear()

    def _packed(self) -> dict[str, Tensor] | None:
        self._put_rates_back()
        is_new = not any(each.state for each in self.optimizers)
        if is_new and (group_numbers(self.optimizers), self.scaler.state_dict()) == self._new:
            return None
        return packed_optimizer(self.optimizers, self.scaler, consume=True)

    def check_carried(self, fresh: ScheduledOptimizer) -> None:
        """See that all of its state can be carried.

        Args:
            fresh: One that has made no step yet, to see that nothing else was changed by steps.

        Raises:
            InvalidRecipe: An optimizer keeps something else than tensors and numbers.
        """
        packed_optimizer(self.optimizers, self.scaler)
        for each, new in zip(self.optimizers, fresh.optimizers, strict=True):
            check_attributes(each, new)

    def _put_rates_back(self) -> None:
        """The schedule sets them at every step: they are no state."""
        groups = zip(self.groups, self._scheduled, self._options, strict=True)
        for group, scheduled, new in groups:
            group.update({name: new[name] for name in scheduled})


@dataclass
class _Steps:
    """What some optimizers have done so far.

    Attributes:
        is_any: Whether any of them made a step.
        used: The numbers of those that made one with a gradient.
    """

    is_any: bool = False
    used: set[int] = field(default_factory=set)

    def note(self, at: int, optimizer: Optimizer) -> None:
        """One of them made a step."""
        self.is_any = True
        if at not in self.used and _has_gradient(optimizer):
            self.used.add(at)


def _has_gradient(optimizer: Optimizer) -> bool:
    groups = optimizer.param_groups
    return any(each.grad is not None for group in groups for each in group["params"])


def made_optimizers(recipe: Recipe, model: nn.Module) -> tuple[Any, ...]:
    """What a recipe's factory makes of a model, or of its parameters.

    Raises:
        TrainingFailed: The factory raised.
    """
    is_of_model = first_parameter(recipe.optimizer) == "model"
    with named("the optimizer's factory"):
        made = recipe.optimizer(model if is_of_model else model.parameters())
    several = tuple(made) if isinstance(made, list | tuple) else (made,)
    for group in (group for each in _real(several) for group in each.param_groups):
        if isinstance(group.get("lr"), torch.Tensor):  # schedulers write into it
            group["lr"] = group["lr"].clone()
    return several


def _real(optimizers: Iterable[Any]) -> list[Optimizer]:
    return [each for each in optimizers if isinstance(each, Optimizer)]


def stilled_optimizers(recipe: Recipe, model: nn.Module) -> tuple[Optimizer, ...]:
    """Optimizers whose steps do nothing, for a step that makes them by itself."""
    optimizers = made_optimizers(recipe, model)

    def step(closure: Any = None) -> Any:
        return None if closure is None else closure()

    for each in optimizers:
        vars(each)["step"] = step
    return optimizers


def rates_of(recipe: Recipe, model: nn.Module) -> Rates:
    """The rates by a recipe of the optimizers of a model."""
    return Rates(recipe, lambda: made_optimizers(recipe, model))


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
        optimizers = made_optimizers(recipe, model)
        for each in parameters:
            each.grad = torch.zeros_like(each)
        for optimizer in optimizers:
            optimizer.step()
        states = [each for optimizer in optimizers for each in optimizer.state.values()]
        held = [value for each in states for value in each.values()]
    except Exception:  # whatever it is: that it cannot be trained by is said elsewhere
        return 2 * sum(each.numel() * each.element_size() for each in parameters)
    tensors = [value for value in held if isinstance(value, torch.Tensor)]
    return sum(each.numel() * each.element_size() for each in tensors)


def optimizer_faults(optimizers: Sequence[Any], model: nn.Module, recipe: Recipe) -> Iterator[str]:
    """What in optimizers would train nothing, or cannot be asked for a step."""
    if not optimizers:
        yield "optimizer gave no optimizer; it must give a torch.optim.Optimizer, or several"
    for each in optimizers:
        yield from _faults_of(each, model, recipe)
    groups = [group for each in _real(optimizers) for group in each.param_groups]
    owners = Counter(id(each) for group in groups for each in group["params"])
    if shared := sum(count > 1 for count in owners.values()):
        yield f"{shared} parameters belong to several optimizers; give each to one of them"


def _faults_of(optimizer: Any, model: nn.Module, recipe: Recipe) -> Iterator[str]:
    if not isinstance(optimizer, Optimizer):
        yield (
            f"optimizer gave {type(optimizer).__name__}; it must give one torch.optim.Optimizer, "
            "or a tuple of several"
        )
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
    is_asked = closure is not None and closure.default is inspect.Parameter.empty
    if is_asked and not recipe.is_manual:
        yield (
            f"{type(optimizer).__name__} asks for the loss again in its own step (a closure); take "
            "an optimizer that works from the gradients of one pass"
        )
