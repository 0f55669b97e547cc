"""Batches from a dataset: by indexing where it is tensors, through a DataLoader otherwise.

Before each record of a general dataset is fetched, the generators are seeded for that record, so
that augmentation neither depends on the other records of a batch nor shifts when one of them
disappears.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from obliviate.blocks import key
from obliviate.errors import TrainingFailed
from obliviate.state import raw_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Batches = Iterable[tuple[int, NDArray[np.int64]]]


class Feed(Protocol):
    """Where batches come from."""

    def batch(self, records: NDArray[np.int64], seed: int) -> Any:
        """One batch, collated, on the CPU."""
        ...

    def batches(self, steps: Batches, seed: int) -> Iterator[tuple[int, Any]]:
        """The batches of (step, records) after (step, records)."""
        ...


def feed_of(data: Dataset[Any], workers: int, threads: int = 1) -> Feed:
    """The feed of a dataset: the direct one only where `TensorDataset`'s own indexing applies.

    Args:
        data: The dataset.
        workers: How many processes fetch records; 0 for this one.
        threads: How many threads a dataset computes with, whoever asks it: a sum over several
            threads has other bits. More than one cannot be had in a worker, which would hang, so
            that records are fetched in this process then.
    """
    if isinstance(data, TensorDataset) and type(data).__getitem__ is TensorDataset.__getitem__:
        return TensorFeed(data)
    return LoaderFeed(data, workers if threads == 1 else 0, threads)


class TensorFeed:
    """Indexes tensors that are in memory already."""

    def __init__(self, data: TensorDataset) -> None:
        self._tensors = data.tensors

    def batch(self, records: NDArray[np.int64], seed: int) -> Any:  # noqa: ARG002
        """One batch: the rows of the records, of each tensor."""
        index = torch.from_numpy(records)
        return [tensor[index] for tensor in self._tensors]

    def batches(self, steps: Batches, seed: int) -> Iterator[tuple[int, Any]]:
        """The batches of (step, records) after (step, records)."""
        for step, records in steps:
            yield step, self.batch(records, seed)


class LoaderFeed:
    """Fetches records one by one, in worker processes if there are any."""

    def __init__(self, data: Dataset[Any], workers: int, threads: int) -> None:
        self._seeded = _Seeded(data, threads)
        self._sampler = _Sampler()
        self._loader = DataLoader(
            self._seeded,
            batch_sampler=cast("Any", self._sampler),
            collate_fn=collated,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def batch(self, records: NDArray[np.int64], seed: int) -> Any:
        """One batch, fetched in this process and collated as the loader would."""
        return collated([self._seeded[each] for each in _keys(records, seed)])

    def batches(self, steps: Batches, seed: int) -> Iterator[tuple[int, Any]]:
        """The batches of (step, records) after (step, records)."""
        listed = list(steps)
        self._sampler.batches = [_keys(records, key(seed, step)) for step, records in listed]
        for (step, _), batch in zip(listed, self._loader, strict=True):
            yield step, batch


def like(mapping: Mapping[str, Any], values: dict[str, Any]) -> Any:
    """A mapping of the same kind with other values, as torch's own collation makes it."""
    if type(mapping) is dict:
        return values
    if isinstance(mapping, MutableMapping):
        with contextlib.suppress(TypeError, ValueError):
            copied = copy.copy(mapping)
            copied.update(values)
            return copied
    with contextlib.suppress(TypeError, ValueError):
        return type(mapping)(values)  # type: ignore[call-arg]
    return values


def collated(records: list[Any]) -> Any:
    """Records as a batch, as torch's own loader makes one.

    Raises:
        TrainingFailed: They do not go together.
    """
    try:
        return default_collate(records)
    except Exception as error:
        kinds = ", ".join(dict.fromkeys(type(each).__name__ for each in records))
        raise TrainingFailed(
            f"collating {len(records)} records ({kinds}) raised {type(error).__name__}: {error}",
            hint="let the dataset give tensors, arrays, numbers, texts, or lists and mappings of "
            "them, of one shape and type for all records",
        ) from error


def _keys(records: NDArray[np.int64], seed: int) -> list[tuple[int, int]]:
    return [(int(record), key(seed, int(record))) for record in records]


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
    elif isinstance(item, str | bytes | bool | int | float | complex | None):
        yield repr(item).encode(errors="surrogatepass")
    else:
        yield type(item).__qualname__.encode()


class _Sampler:
    """Hands out the batches laid before it, so that the loader and its workers outlive a block."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Seeded(Dataset[Any]):
    """A dataset whose generators are seeded for each record."""

    def __init__(self, data: Dataset[Any], threads: int) -> None:
        self._data, self._threads = data, threads

    def __getitem__(self, record_and_seed: tuple[int, int]) -> Any:
        record, seed = record_and_seed
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        threads = torch.get_num_threads()
        if threads == self._threads:
            return self._data[record]
        torch.set_num_threads(self._threads)
        try:
            return self._data[record]
        finally:
            torch.set_num_threads(threads)
