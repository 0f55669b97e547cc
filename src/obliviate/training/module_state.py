"""State of a module that is not in its state dict: attributes, and buffers that are not kept.

A checkpoint does not hold it, so no replay could start from it. It is put back to what it was in a
new module before every block: then a block depends on the checkpoint before it alone, in training
as in a replay. Things are put back in place, so that what two modules share, or a module and a
function outside, they go on sharing.
"""

from __future__ import annotations

import copy
import random
import types
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from obliviate.states.update import is_wrapper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_TENSORS = ("_parameters", "_buffers", "_modules")
_CONSTANT = str | bytes | bool | int | float | complex | type | types.ModuleType | None
_COMPILED = ("torch._dynamo", "torch._inductor", "torch.fx", "torch.jit")
"""Where compiled code keeps its caches: nothing of a model's own."""


class Hidden:
    """The hidden state of a new model and its loss, to be put back as often as one likes.

    Of a loss that is a module, which no checkpoint holds at all, every tensor is hidden state.
    """

    def __init__(self, model: nn.Module, loss: Any) -> None:
        """Remember the modules as they are now."""
        losses = list(loss.modules()) if isinstance(loss, nn.Module) else []
        modules = [*model.modules(), *losses]
        self._model, self._memory = model, _Memory()
        self._trainable = {name: each.requires_grad for name, each in model.named_parameters()}
        # what belongs to the state dict, and the modules themselves, are referred to, not kept
        kept = [each for module in model.modules() for each in _kept(module)]
        entries = (each for each in model.state_dict().values() if isinstance(each, Tensor))
        self._memory.leave_alone(modules, (*kept, *entries))
        for module in losses:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self._memory.take(tensor)
        for module in modules:
            if not isinstance(module, torch.jit.ScriptModule):
                self._memory.take_content(vars(module), left_out=_TENSORS)
                self._memory.take_buffers(module)

    def put_back(self) -> None:
        """Make the modules' hidden state what it was."""
        self._memory.put_back()
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(self._trainable.get(name, parameter.requires_grad))

    def thawed(self) -> list[str]:
        """The parameters whose `requires_grad` is not what it is in a new model."""
        return [
            name
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad != self._trainable.get(name, parameter.requires_grad)
        ]


class _Memory:
    """What some things held, and how each of them gets it back."""

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}  # also keeps them, so that no id is used twice
        self._storages: set[int] = set()
        self._steps: list[Callable[[], None]] = []
        self._opaque: dict[int, Any] = {}  # what can only be replaced: copies, by the id of each
        self._fresh: dict[int, Any] = {}

    def put_back(self) -> None:
        """Give everything what it held."""
        self._fresh = {}
        with torch.no_grad():
            for step in self._steps:
                step()

    def leave_alone(self, things: Iterable[Any], tensors: Iterable[Tensor]) -> None:
        """Remember nothing of these, nor of what shares memory with the tensors."""
        tensors = list(tensors)
        self._seen |= {id(thing): thing for thing in (*things, *tensors)}
        self._storages |= {_storage(tensor) for tensor in tensors} - {0}

    def take(self, thing: Any) -> None:
        """Remember what a thing holds, and what that holds."""
        if isinstance(thing, _CONSTANT) or id(thing) in self._seen:
            return
        self._seen[id(thing)] = thing
        ways: tuple[tuple[Any, Callable[[Any], None]], ...] = (
            (Tensor, self._take_tensor),
            (list | deque, self._take_sequence),
            (dict, self.take_content),
            (set, self._take_set),
            (tuple | frozenset, self._take_each),
            (object, self._take_object),
        )
        next(take for kind, take in ways if isinstance(thing, kind))(thing)

    def _take_each(self, things: Iterable[Any]) -> None:
        for each in things:
            self.take(each)

    def _take_object(self, thing: Any) -> None:
        if (step := _own_way(thing)) is not None:
            self._steps.append(step)
        elif _is_plain(thing):
            self.take_content(vars(thing))
        elif not type(thing).__module__.startswith(_COMPILED):
            self._take_opaque(thing)

    def take_content(self, holder: dict[Any, Any], left_out: tuple[str, ...] = ()) -> None:
        """Remember what a mapping holds, in its order; what is left out stays as it is."""
        content = {name: value for name, value in holder.items() if name not in left_out}

        def put_back() -> None:
            for name in holder.keys() - content.keys() - set(left_out):
                del holder[name]
            for name, value in content.items():
                holder[name] = self._renewed(value)

        self._steps.append(put_back)
        self._take_each(content.values())

    def take_buffers(self, module: nn.Module) -> None:
        """Remember which buffers there are, and those that the state dict leaves out."""
        buffers, unkept = module._buffers, {}
        for name in module._non_persistent_buffers_set:
            unkept[name] = buffers[name]
            self.take(buffers[name])
        known = set(buffers)

        def put_back() -> None:
            for name in buffers.keys() - known:
                del buffers[name]
            buffers.update(unkept)

        self._steps.append(put_back)

    def _renewed(self, thing: Any) -> Any:
        if id(thing) not in self._opaque:
            return thing
        if id(thing) not in self._fresh:
            self._fresh[id(thing)] = copy.deepcopy(self._opaque[id(thing)], dict(self._seen))
        return self._fresh[id(thing)]

    def _take_tensor(self, tensor: Tensor) -> None:
        if tensor.is_meta or _storage(tensor) in self._storages:
            return
        held, data = tensor.detach().clone(), tensor.detach()

        def put_back() -> None:
            if data.shape == held.shape:
                data.copy_(held)
            tensor.grad = None

        self._steps.append(put_back)

    def _take_sequence(self, sequence: list[Any] | deque[Any]) -> None:
        content = list(sequence)

        def put_back() -> None:
            sequence.clear()
            sequence.extend(map(self._renewed, content))

        self._steps.append(put_back)
        self._take_each(content)

    def _take_set(self, known: set[Any]) -> None:
        content = set(known)

        def put_back() -> None:
            known.clear()
            known.update(content)

        self._steps.append(put_back)

    def _take_opaque(self, thing: Any) -> None:
        try:
            held = copy.deepcopy(thing, dict(self._seen))
            is_copied = held is not thing
        except Exception:  # a lock, a file, a stream: nothing to put back
            return
        if is_copied:
            self._opaque[id(thing)] = held


def _own_way(thing: Any) -> Callable[[], None] | None:
    """How things are put back that say themselves what they hold."""
    if isinstance(thing, np.ndarray):
        array = thing.copy()
        return lambda: np.copyto(thing, array)
    if isinstance(thing, torch.Generator):
        state = thing.get_state()
        return lambda: _set_state(thing, state)
    if isinstance(thing, random.Random):
        python = thing.getstate()
        return lambda: thing.setstate(python)
    if isinstance(thing, np.random.Generator):
        bits, held = thing.bit_generator, copy.deepcopy(thing.bit_generator.state)
        return lambda: setattr(bits, "state", held)
    if callable(thing) and hasattr(thing, "__code__"):
        return lambda: None  # a function
    return None


def _set_state(generator: torch.Generator, state: Tensor) -> None:
    generator.set_state(state)


def _is_plain(thing: Any) -> bool:
    """Whether an object is nothing but its attributes."""
    kind = type(thing)
    return (
        hasattr(thing, "__dict__")
        and not isinstance(thing, type)
        and not kind.__module__.startswith((*_COMPILED, "logging"))
        and all(
            getattr(kind, name) is getattr(object, name)
            for name in ("__reduce__", "__reduce_ex__", "__getstate__")
        )
        and not any(
            "__slots__" in vars(each) or "__deepcopy__" in vars(each) for each in kind.mro()
        )
    )


def _storage(tensor: Tensor) -> int:
    is_elsewhere = tensor.is_meta or tensor.is_sparse or is_wrapper(tensor)
    return 0 if is_elsewhere else tensor.untyped_storage().data_ptr()


def _kept(module: nn.Module) -> Iterator[Tensor]:
    """The tensors of a module that its state dict keeps."""
    yield from module.parameters(recurse=False)
    unkept = module._non_persistent_buffers_set
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in unkept:
            yield buffer
