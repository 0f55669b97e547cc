"""The state of an optimizer as a plain mapping of tensors, and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from obliviate.errors import InvalidRecipe
from obliviate.training.collation import content_of

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from obliviate.states.update import State

_NUMBERS = "numbers"


def packed_optimizer(optimizer: Optimizer, fresh: Optimizer | None = None) -> dict[str, Tensor]:
    """Copy moments and counters to the CPU.

    Tensors become entries "parameter/name"; plain numbers, of moments and of parameter groups, go
    into one entry as JSON.

    Args:
        optimizer: What to copy.
        fresh: One that has made no step yet, to see that nothing else was changed by steps.

    Raises:
        InvalidRecipe: The optimizer keeps something else, such as a list.
    """
    _check_state(optimizer)
    if fresh is not None:
        _check_attributes(optimizer, fresh)
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {"state": {}, "groups": [], "devices": {}}
    for at, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            place = f"{at}/{name}"
            if isinstance(value, Tensor):
                tensors[place] = value.detach().cpu().clone()
                numbers["devices"][place] = value.device.type
            elif value is None or isinstance(value, bool | int | float):
                numbers["state"][place] = value
            else:
                raise _uncarried(optimizer, f"keeps {name!r} as {type(value).__name__}")
    numbers["groups"] = group_numbers(optimizer)
    text = json.dumps(numbers).encode()
    return tensors | {_NUMBERS: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def group_numbers(optimizer: Optimizer) -> list[dict[str, float]]:
    """The plain numbers in each of its parameter groups."""
    return [
        {name: value for name, value in group.items() if isinstance(value, bool | int | float)}
        for group in optimizer.param_groups
    ]


def unpack_optimizer(optimizer: Optimizer, packed: State) -> None:
    """Put a packed state into a new optimizer, in the very dtypes that it had."""
    numbers = json.loads(bytes(packed[_NUMBERS].numpy()))
    parameters = _parameters(optimizer)
    for place, value in (packed | numbers["state"]).items():
        if place == _NUMBERS:
            continue
        at, _, name = place.partition("/")
        parameter = parameters[int(at)]
        if isinstance(value, Tensor):
            is_here = numbers["devices"][place] == parameter.device.type
            value = value.to(parameter.device if is_here else "cpu", copy=True)  # noqa: PLW2901
        optimizer.state[parameter][name] = value
    for group, values in zip(optimizer.param_groups, numbers["groups"], strict=True):
        group.update(values)


def _check_state(optimizer: Optimizer) -> None:
    known = {id(parameter) for parameter in _parameters(optimizer)}
    if any(id(key) not in known for key in optimizer.state):
        raise _uncarried(optimizer, "keeps state that belongs to no parameter")
    for group in optimizer.param_groups:
        for name, value in group.items():
            if isinstance(value, Tensor) and name != "lr":
                raise _uncarried(optimizer, f"keeps the tensor {name!r} in its parameter groups")


def _check_attributes(optimizer: Optimizer, fresh: Optimizer) -> None:
    known = vars(fresh)
    for name, value in vars(optimizer).items():
        if name.startswith("_") or name in {"state", "param_groups", "defaults", "step"}:
            continue
        before, after = ([*content_of(each)] for each in (known.get(name), value))
        if before != after:
            raise _uncarried(optimizer, f"keeps state in its attribute {name!r}")


def _uncarried(optimizer: Optimizer, what: str) -> InvalidRecipe:
    return InvalidRecipe(
        f"{type(optimizer).__name__} {what}",
        hint='such a state cannot be carried; use optimizer_state="fresh"',
    )


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
