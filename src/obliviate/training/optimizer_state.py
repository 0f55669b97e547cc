"""The state of optimizers as a plain mapping of tensors, and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from obliviate.errors import InvalidRecipe
from obliviate.training.collation import content_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer

    from obliviate.states.update import State

_NUMBERS = "numbers"


def packed_optimizer(
    optimizers: Sequence[Optimizer], scaler: GradScaler | None = None, *, consume: bool = False
) -> dict[str, Tensor]:
    """Copy moments and counters to the CPU.

    Tensors become entries "parameter/name"; plain numbers, of moments, of parameter groups and of
    the scaler, go into one entry as JSON.

    Args:
        optimizers: What to copy; the parameters of all of them are counted through.
        scaler: That of their losses, if any.
        consume: Take the very tensors that are on the CPU already; no step may follow.

    Raises:
        InvalidRecipe: An optimizer keeps something else, such as a list.
    """
    for optimizer in optimizers:
        _check_state(optimizer)
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {"state": {}, "groups": [], "devices": {}}
    for at, (optimizer, parameter) in enumerate(_parameters(optimizers)):
        for name, value in optimizer.state.get(parameter, {}).items():
            place = f"{at}/{name}"
            if isinstance(value, Tensor):
                tensors[place] = _own(value, consume=consume)
                numbers["devices"][place] = value.device.type
            elif value is None or isinstance(value, bool | int | float):
                numbers["state"][place] = value
            else:
                raise _uncarried(optimizer, f"keeps {name!r} as {type(value).__name__}")
    numbers["groups"] = group_numbers(optimizers)
    numbers["scaler"] = {} if scaler is None else scaler.state_dict()
    text = json.dumps(numbers).encode()
    return tensors | {_NUMBERS: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def _own(value: Tensor, *, consume: bool) -> Tensor:
    """A tensor on the CPU that is nobody else's."""
    tensor = value.detach().cpu()
    is_whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    is_ours = tensor.device != value.device or (consume and is_whole)
    return tensor if is_ours else tensor.clone()


def group_numbers(optimizers: Sequence[Optimizer]) -> list[dict[str, float]]:
    """The plain numbers in each of the parameter groups."""
    return [
        {name: value for name, value in group.items() if isinstance(value, bool | int | float)}
        for optimizer in optimizers
        for group in optimizer.param_groups
    ]


def unpack_optimizer(
    optimizers: Sequence[Optimizer], packed: State, scaler: GradScaler | None = None
) -> None:
    """Put a packed state into new optimizers, in the very dtypes that it had."""
    numbers = json.loads(bytes(packed[_NUMBERS].numpy()))
    if scaler is not None and numbers["scaler"]:
        scaler.load_state_dict(numbers["scaler"])
    parameters = list(_parameters(optimizers))
    for place, value in (packed | numbers["state"]).items():
        if place == _NUMBERS:
            continue
        at, _, name = place.partition("/")
        optimizer, parameter = parameters[int(at)]
        if isinstance(value, Tensor):
            is_here = numbers["devices"][place] == parameter.device.type
            value = value.to(parameter.device if is_here else "cpu", copy=True)  # noqa: PLW2901
        optimizer.state[parameter][name] = value
    groups = [group for each in optimizers for group in each.param_groups]
    for group, values in zip(groups, numbers["groups"], strict=True):
        group.update(values)


def _check_state(optimizer: Optimizer) -> None:
    known = {id(parameter) for _, parameter in _parameters([optimizer])}
    if any(id(key) not in known for key in optimizer.state):
        raise _uncarried(optimizer, "keeps state that belongs to no parameter")
    for group in optimizer.param_groups:
        for name, value in group.items():
            if isinstance(value, Tensor) and name != "lr":
                raise _uncarried(optimizer, f"keeps the tensor {name!r} in its parameter groups")


def check_attributes(optimizer: Optimizer, fresh: Optimizer) -> None:
    """See that steps changed nothing of an optimizer but its state.

    Args:
        optimizer: It, after steps.
        fresh: One that has made none yet.

    Raises:
        InvalidRecipe: An attribute is another.
    """
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


def _parameters(optimizers: Sequence[Optimizer]) -> Iterator[tuple[Optimizer, Tensor]]:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield optimizer, parameter
