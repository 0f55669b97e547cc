"""Collation: records as a batch, as torch's own loader makes one, or as a recipe says."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from obliviate.errors import TrainingFailed
from obliviate.states.update import raw_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

Collate = Callable[[list[Any]], Any]
_PLAIN = (str, bytes, bool, int, float, complex, type(None))
_WORDS = (datetime.date, datetime.time, datetime.timedelta, Decimal, UUID)
_FORMS = "tensors, arrays, numbers, texts, or lists and mappings of them"


def collated(records: list[Any], collate: Collate | None = None) -> Any:
    """Records as a batch.

    Args:
        records: As the dataset gives them.
        collate: What makes a batch of them; torch's own collation if None.

    Raises:
        TrainingFailed: They do not go together.
    """
    try:
        return (collate or default_collate)(records)
    except Exception as error:
        kinds = ", ".join(dict.fromkeys(type(each).__name__ for each in records))
        hint = (
            f"let the dataset give {_FORMS}, of one shape and type for all records; or say how a "
            "batch is made of them: Recipe(collate=...)"
            if collate is None
            else "let collate make a batch of any number of records, down to a single one: "
            "erasures leave such"
        )
        raise TrainingFailed(
            f"collating {len(records)} records ({kinds}) raised {type(error).__name__}: {error}",
            hint=hint,
        ) from error


def seed_for_reading(seed: int) -> None:
    """Seed the generators that a dataset or a collation may draw from."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)


def content_of(item: Any) -> Iterator[bytes | memoryview]:
    """The content of a record or a batch, in a canonical order of bytes.

    Tensors, arrays, text, bytes, numbers, and sequences and mappings of them; of anything else, its
    type.
    """
    if isinstance(item, Tensor):
        yield f"{item.dtype}{list(item.shape)}".encode()
        yield raw_bytes(item.cpu())
    elif isinstance(item, np.ndarray | np.generic):
        yield f"{item.dtype}{list(item.shape)}".encode()
        yield item.tobytes()
    elif isinstance(item, Mapping):
        for name, value in item.items():
            yield repr(name).encode()
            yield from content_of(value)
    elif isinstance(item, list | tuple):
        yield str(len(item)).encode()
        for value in item:
            yield from content_of(value)
    elif isinstance(item, _PLAIN):
        yield repr(item).encode(errors="surrogatepass")
    else:
        yield type(item).__qualname__.encode()


def content_before(item: Any) -> Iterator[bytes | memoryview]:
    """The content of a record as the dataset gives it, before a collation of the user's own.

    Of what that makes of it, too much may depend on other records, and on what is drawn.

    Raises:
        TrainingFailed: It holds something that cannot be looked into.
    """
    if isinstance(item, list | tuple):
        if all(type(each) in _PLAIN for each in item):  # of tokens there may be thousands
            yield repr([*item]).encode(errors="surrogatepass")
            return
        yield str(len(item)).encode()
        for value in item:
            yield from content_before(value)
    elif isinstance(item, Mapping):
        for name, value in item.items():
            yield repr(name).encode()
            yield from content_before(value)
    elif isinstance(item, (Tensor, np.ndarray, np.generic, *_PLAIN)):
        yield from content_of(item)
    elif isinstance(item, _WORDS):
        yield repr(item).encode()
    elif hasattr(item, "__array_interface__"):  # a picture
        yield from content_of(np.asarray(item))
    elif hasattr(item, "__dict__"):
        yield type(item).__qualname__.encode()
        yield from content_before(vars(item))
    else:
        raise TrainingFailed(
            f"a record holds a {type(item).__name__}, whose content cannot be compared",
            hint=f"let the dataset give {_FORMS}, or objects with attributes of these kinds; let "
            "collate make the rest of them",
        )
