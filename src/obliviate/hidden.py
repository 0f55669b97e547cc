"""State of a module that is not in its state dict: attributes, and buffers that are not kept.

A checkpoint does not hold it, so no replay could start from it. It is put back to what it was in a
new module before every block: then a block depends on the checkpoint before it alone, in training
as in a replay.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_TENSORS = ("_parameters", "_buffers", "_modules")
_CONSTANT = str | bytes | bool | int | float | None


class Hidden:
    """The hidden state of a new model and its loss, to be put back as often as one likes.

    Of a loss that is a module, which no checkpoint holds at all, every tensor is hidden state.
    """

    def __init__(self, model: nn.Module, loss: Any) -> None:
        """Remember the modules as they are now."""
        losses = list(loss.modules()) if isinstance(loss, nn.Module) else []
        self._modules = [*model.modules(), *losses]
        unkept = [(m, name) for m in model.modules() for name in m._non_persistent_buffers_set]
        unkept += [(m, name) for m in losses for name in m._buffers]
        self._buffers = [(m, name, copy.deepcopy(m._buffers[name])) for m, name in unkept]
        own = [parameter for m in losses for parameter in m.parameters(recurse=False)]
        self._parameters = [(parameter, parameter.detach().clone()) for parameter in own]
        # what belongs to the state dict, and the modules themselves, are referred to, not copied
        known = [*self._modules, *(tensor for m in self._modules for tensor in _tensors(m))]
        self._known = {id(thing): thing for thing in known}
        self._attributes = [self._copied(_attributes(module)) for module in self._modules]

    def put_back(self) -> None:
        """Make the modules' hidden state what it was."""
        for module, attributes in zip(self._modules, self._attributes, strict=True):
            for name in _attributes(module).keys() - attributes.keys():
                delattr(module, name)
            vars(module).update(self._copied(attributes))
        for module, name, value in self._buffers:
            module._buffers[name] = copy.deepcopy(value)
        with torch.no_grad():
            for parameter, value in self._parameters:
                parameter.copy_(value)

    def _copied(self, attributes: dict[str, Any]) -> dict[str, Any]:
        return {name: self._copy(value) for name, value in attributes.items()}

    def _copy(self, value: Any) -> Any:
        if isinstance(value, _CONSTANT) or (isinstance(value, tuple) and _is_constant(value)):
            return value
        if isinstance(value, dict | set) and not value:
            return type(value)()  # nearly all of them: the hooks that a module might have
        try:
            return copy.deepcopy(value, dict(self._known))
        except (TypeError, RuntimeError):  # a lock, a file, a stream: nothing to put back
            return value


def _is_constant(values: tuple[Any, ...]) -> bool:
    return all(isinstance(value, _CONSTANT) for value in values)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _TENSORS}


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
