"""Schedules: a factor at each step, or a scheduler of torch's, given as its factory."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from obliviate.recipe.user_code import first_parameter, parameters_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.optim import Optimizer

FACTORY = "partial(CosineAnnealingLR, T_max=1000), or a function (optimizer, total_steps)"
_BY_METRIC = (
    "{} goes by a metric, which training that never saw a record would not have measured alike: no "
    "state could be replayed; give a schedule that depends on the number of the step alone"
)


def is_factory(schedule: Any) -> bool:
    """Whether a schedule makes a scheduler of an optimizer, and is no factor at each step."""
    return _class_of(schedule) is not None or first_parameter(schedule) == "optimizer"


def factory_faults(schedule: Any) -> Iterator[str]:
    """What can be seen of a schedule without running it."""
    kind = _class_of(schedule)
    if kind is not None and issubclass(kind, ReduceLROnPlateau):
        yield f"schedule: {_BY_METRIC.format(kind.__name__)}"
        return
    try:
        inspect.signature(schedule).bind(None, **_total_steps(schedule, 1))
    except ValueError:
        return  # it does not say what it takes
    except TypeError as error:
        yield f"schedule cannot be called with an optimizer ({error}); give {FACTORY} -> scheduler"


def scheduler_faults(scheduler: Any, optimizer: Optimizer) -> Iterator[str]:
    """What in that which a factory gave is no scheduler that can be stepped by itself."""
    name = type(scheduler).__name__
    if not callable(getattr(scheduler, "step", None)):
        yield f"schedule gave {name}; it must give a scheduler of torch's, such as LambdaLR"
    elif isinstance(scheduler, ReduceLROnPlateau) or _asks(scheduler.step):
        yield f"schedule: {_BY_METRIC.format(name)}"
    elif getattr(scheduler, "optimizer", optimizer) is not optimizer:
        yield f"schedule gave a {name} of another optimizer; make it of the one it is called with"


def made_scheduler(schedule: Any, optimizer: Optimizer, total_steps: int) -> Any:
    """What a factory makes of an optimizer."""
    return schedule(optimizer, **_total_steps(schedule, total_steps))


def _total_steps(schedule: Any, total_steps: int) -> dict[str, int]:
    """The number of all steps, under the name by which a factory asks for it; {} if it does not."""
    others = list(parameters_of(schedule).values())[1:]
    bound = schedule.keywords if isinstance(schedule, partial) else {}
    for each in others:
        is_open = each.default in (inspect.Parameter.empty, None) and each.name not in bound
        if each.name == "total_steps" and is_open and "steps_per_epoch" not in bound:
            return {each.name: total_steps}
    second = others[0] if others and _class_of(schedule) is None else None
    is_asked = second is not None and second.default is inspect.Parameter.empty
    if second is not None and is_asked and second.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return {second.name: total_steps}
    return {}


def _class_of(schedule: Any) -> type[LRScheduler] | None:
    while isinstance(schedule, partial):
        schedule = schedule.func
    is_class = isinstance(schedule, type) and issubclass(schedule, LRScheduler)
    return schedule if is_class else None


def _asks(step: Any) -> bool:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(
        each.default is inspect.Parameter.empty and each.kind not in kinds
        for each in parameters_of(step).values()
    )
