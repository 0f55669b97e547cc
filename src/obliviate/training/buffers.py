"""Buffers within a batch that is cut into microbatches: they do not depend on who went first.

Each microbatch begins with the buffers as they were before the batch. Running statistics, such as
those of BatchNorm, become the mean over the microbatches; every other buffer is what the first of
them left. So microbatches can be worked out anywhere, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import starmap
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from obliviate.training.averages import PREFIX

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, kw_only=True)
class Left:
    """What microbatches left in the buffers.

    Attributes:
        sums: Of each running statistic, over the microbatches; None of one that was not followed.
        first: Every other buffer, as the first of the microbatches left it.
        count: How many microbatches there were.
    """

    sums: tuple[Tensor | None, ...] = ()
    first: tuple[Tensor | None, ...] = ()
    count: int = 1

    def joined(self, later: Left) -> Left:
        """What these and later microbatches left, in the memory of the first where it can be."""
        pairs = zip(self.sums, later.sums, strict=True)
        with torch.no_grad():
            sums = tuple(starmap(_sum, pairs))
        return Left(sums=sums, first=self.first, count=self.count + later.count)


@dataclass(frozen=True)
class _Slot:
    """Where a module keeps a buffer: the very tensor may be replaced by another.

    Attributes:
        module: It.
        name: Of the buffer.
        is_parameter: Whether it is a parameter that no gradient is taken of.
    """

    module: nn.Module
    name: str
    is_parameter: bool = False

    @property
    def held(self) -> Tensor | None:
        return self._holder.get(self.name)

    def hold(self, tensor: Tensor | None) -> None:
        if self.held is not tensor:
            self._holder[self.name] = tensor

    @property
    def _holder(self) -> dict[str, Tensor | None]:
        module = self.module
        return module._parameters if self.is_parameter else module._buffers  # type: ignore[return-value]


class Buffers:
    """The buffers of some modules, and parameters that are written to like buffers.

    Attributes:
        names: Of the buffers that are no running statistics.
    """

    def __init__(self, modules: Iterable[nn.Module], base: Collection[str] = ()) -> None:
        """Find them.

        Args:
            modules: The module that is trained first, and others.
            base: Names of its entries that nobody writes to.
        """
        slots = [
            slot for at, each in enumerate(modules) for slot in _slots(each, base if not at else ())
        ]
        self._statistics = [each for each in slots if _is_statistic(each)]
        self._others = [each for each in slots if not _is_statistic(each)]
        self.names = tuple(each.name for each in self._others)
        self._before: list[tuple[_Slot, Tensor | None, Tensor | None]] = []

    @property
    def statistics(self) -> list[Tensor]:
        """The running statistics, as they are now."""
        return [each.held for each in self._statistics if each.held is not None]

    @property
    def others(self) -> list[Tensor | None]:
        """All other buffers, as they are now."""
        return [each.held for each in self._others]

    def remember(self) -> None:
        """A batch begins."""
        slots = (*self._statistics, *self._others)
        self._before = [(each, held := each.held, _copied(held)) for each in slots]

    def put_back(self) -> None:
        """Make them what they were when the batch began."""
        with torch.no_grad():
            for slot, tensor, value in self._before:
                slot.hold(tensor)
                if tensor is not None and value is not None:
                    tensor.copy_(value)

    def left(self) -> Left:
        """What a microbatch left."""
        sums = (_copied(each.held) if each.module.training else None for each in self._statistics)
        return Left(sums=tuple(sums), first=tuple(_copied(each.held) for each in self._others))

    def put(self, left: Left) -> None:
        """Make them what the microbatches of a batch left."""
        self.put_back()
        means = (None if each is None else each / left.count for each in left.sums)
        with torch.no_grad():
            for slot, mean in zip(self._statistics, means, strict=True):
                if mean is not None:
                    _write(slot, mean)
            for slot, value in zip(self._others, left.first, strict=True):
                _write(slot, value)


def _slots(module: nn.Module, base: Collection[str]) -> Iterator[_Slot]:
    for place, each in module.named_modules():
        prefix = f"{place}." if place else ""
        for name in each._buffers:
            if not name.startswith(PREFIX) and prefix + name not in base:
                yield _Slot(each, name)
        for name, parameter in each._parameters.items():
            is_frozen = parameter is not None and not parameter.requires_grad
            if is_frozen and prefix + name not in base:
                yield _Slot(each, name, is_parameter=True)


def _is_statistic(slot: _Slot) -> bool:
    return isinstance(slot.module, _NormBase) and slot.name in _STATISTICS and slot.held is not None


def _copied(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _write(slot: _Slot, value: Tensor | None) -> None:
    held = slot.held
    if held is None or value is None or (held.shape, held.dtype) != (value.shape, value.dtype):
        slot.hold(value)
    else:
        held.copy_(value)


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first.add_(second)
