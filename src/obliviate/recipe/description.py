"""What a callable of a recipe is, in words that are the same in every process."""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from obliviate.states.update import raw_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator


def describe(thing: Any) -> str:
    """Name a callable by what it is, not by where it lies in memory or in which file.

    Tensors that it was made with, such as the weights of classes, are told by their content.
    """
    if isinstance(thing, partial):
        given = [describe(value) for value in thing.args]
        given += [f"{name}={describe(value)}" for name, value in sorted(thing.keywords.items())]
        return f"{describe(thing.func)}({', '.join(given)})"
    if isinstance(thing, nn.Module):
        tensors = [f"{name}={describe(each)}" for name, each in sorted(_own_tensors(thing).items())]
        return " ".join([placeless(repr(thing)), *tensors])
    if isinstance(thing, Tensor | np.ndarray):
        array = (
            thing.detach().cpu() if isinstance(thing, Tensor) else torch.from_numpy(thing.copy())
        )
        digits = hashlib.sha256(raw_bytes(array)).hexdigest()[:16]
        return f"{str(array.dtype).removeprefix('torch.')}{list(array.shape)} {digits}"
    if callable(thing):
        name = str(getattr(thing, "__qualname__", type(thing).__qualname__))
        its = (*_enclosed(thing), *_declared(thing))
        held = ", ".join(f"{key}={describe(each)}" for key, each in its)
        return f"{name}({held})" if held else name
    return placeless(repr(thing))


def _enclosed(function: Any) -> Iterator[tuple[str, Any]]:
    """The tensors that a function took from where it was written: they do not change by themselves.

    Other things may, such as a counter, and would make the same recipe look like another one.
    """
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
        with contextlib.suppress(ValueError):  # a cell that is still empty
            if isinstance(cell.cell_contents, Tensor | np.ndarray):
                yield name, cell.cell_contents
    defaults = getattr(function, "__defaults__", None) or ()
    for at, value in enumerate(defaults):
        if isinstance(value, Tensor | np.ndarray):
            yield f"default {at}", value


def _declared(thing: Any) -> Iterator[tuple[str, Any]]:
    """The numbers and texts that an object was declared with, such as those of a collation."""
    if is_dataclass(thing) and not isinstance(thing, type):
        for field in fields(thing):
            value = getattr(thing, field.name, None)
            if isinstance(value, str | bool | int | float | Tensor | np.ndarray | None):
                yield field.name, value


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    attributes = {name: each for name, each in vars(module).items() if isinstance(each, Tensor)}
    return own | attributes


def placeless(text: str) -> str:
    """A text without addresses in memory."""
    return re.sub(r"0x[0-9a-f]+", "0x", text)
