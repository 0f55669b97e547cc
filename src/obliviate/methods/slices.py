"""Slices: single records of a collated batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from obliviate.errors import InvalidRecipe
from obliviate.training.batches import like

REMEDY = (
    "give Recipe(score=...): a function (model, batch) -> one number for each record of the batch, "
    'the higher the better it is remembered; or choose the method "deepobliviate" or "exact"'
)


def singles(batch: Any, size: int) -> list[Any]:
    """The records of a batch, as batches of one.

    Raises:
        InvalidRecipe: Nothing in the batch has a row for each record.
    """
    if size > 1 and not _is_sliced(batch, size):
        raise InvalidRecipe(
            f"a batch of {size} records cannot be taken apart: nothing in it ({type(batch)}) has "
            "one row for each record",
            hint=REMEDY,
        )
    return [sliced(batch, slice(at, at + 1), size) for at in range(size)]


def sliced(thing: Any, rows: slice, size: int) -> Any:
    """Some records' part of a collated batch."""
    if isinstance(thing, Tensor):
        return thing[rows] if has_rows(thing, size) else thing
    if isinstance(thing, Mapping):
        return like(thing, {name: sliced(value, rows, size) for name, value in thing.items()})
    if isinstance(thing, list | tuple):
        if len(thing) == size and all(isinstance(each, str | bytes) for each in thing):
            return thing[rows]  # text is collated into a list of texts
        values = [sliced(value, rows, size) for value in thing]
        return type(thing)(*values) if hasattr(thing, "_fields") else values
    return thing


def _is_sliced(thing: Any, size: int) -> bool:
    """Whether something in a batch has a row for each record."""
    if isinstance(thing, Mapping):
        return any(_is_sliced(value, size) for value in thing.values())
    if isinstance(thing, list | tuple):
        is_of_text = len(thing) == size and all(isinstance(each, str | bytes) for each in thing)
        return is_of_text or any(_is_sliced(value, size) for value in thing)
    return has_rows(thing, size)


def has_rows(thing: Any, size: int) -> bool:
    """Whether it is a tensor with a row for each record."""
    return isinstance(thing, Tensor) and thing.ndim > 0 and len(thing) == size
