"""Batches from a dataset: by indexing where it is tensors, through a DataLoader otherwise.

Before each record of a general dataset is fetched, the generators are seeded for that record, so
that augmentation neither depends on the other records of a batch nor shifts when one of them
disappears. They are seeded again before a collation of the user's own.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

from obliviate.recipe.contents import NOTHING, Hashes, hashed
from obliviate.recipe.deal import key
from obliviate.states.update import raw_bytes
from obliviate.training.collation import collated, content_before, content_of, seed_for_reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from obliviate.training.collation import Collate
    from obliviate.training.layout import Microbatch

_ONE_SEED = key(0, "alone")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A microbatch that was read.

    Attributes:
        microbatch: Which records.
        batch: Their content, collated, on the CPU.
        hashes: A keyed hash of each, where they were asked for. Shape (n,), else (0,).
    """

    microbatch: Microbatch
    batch: Any
    hashes: Hashes


class Feed(Protocol):
    """Where batches come from."""

    def batch(self, records: NDArray[np.int64], seed: int, number: int = 0) -> Any:
        """One batch, collated, on the CPU.

        Args:
            records: Which.
            seed: For what a dataset draws.
            number: Of the microbatch, for what a collation draws.
        """
        ...

    def content(self, record: int) -> list[bytes | memoryview]:
        """The content of a record, read as it would be at any other place in the dataset."""
        ...

    def batches(
        self, microbatches: Iterable[Microbatch], seed: int, hashed_steps: int = 0
    ) -> Iterator[Fetched]:
        """Read some microbatches.

        Args:
            microbatches: Which.
            seed: For what a dataset draws.
            hashed_steps: The records of steps with a smaller number are hashed.
        """
        ...


def feed_of(
    data: Dataset[Any],
    workers: int,
    threads: int = 1,
    content_key: bytes | None = None,
    collate: Collate | None = None,
) -> Feed:
    """The feed of a dataset: the direct one only where `TensorDataset`'s own indexing applies.

    Args:
        data: The dataset.
        workers: How many processes fetch records; 0 for this one.
        threads: How many threads a dataset computes with, whoever asks it: a sum over several
            threads has other bits. More than one cannot be had in a worker, which would hang, so
            that records are fetched in this process then.
        content_key: What records are hashed under; 32 bytes. Without it, none are.
        collate: What makes a batch of records; torch's own collation if None.
    """
    is_tensors = isinstance(data, TensorDataset)
    if is_tensors and type(data).__getitem__ is TensorDataset.__getitem__ and collate is None:
        return TensorFeed(cast("TensorDataset", data), content_key)
    return LoaderFeed(data, workers if threads == 1 else 0, threads, content_key, collate)


class TensorFeed:
    """Indexes tensors that are in memory already."""

    def __init__(self, data: TensorDataset, content_key: bytes | None = None) -> None:
        self._tensors, self._key = data.tensors, content_key

    def batch(self, records: NDArray[np.int64], seed: int, number: int = 0) -> Any:  # noqa: ARG002
        """One batch: the rows of the records, of each tensor."""
        index = torch.from_numpy(records)
        return [tensor[index] for tensor in self._tensors]

    def content(self, record: int) -> list[bytes | memoryview]:
        """The content of a batch of one record."""
        return list(content_of(self.batch(np.array([record], dtype=np.int64), 0)))

    def batches(
        self, microbatches: Iterable[Microbatch], seed: int, hashed_steps: int = 0
    ) -> Iterator[Fetched]:
        """Read some microbatches; see `Feed`."""
        for each in microbatches:
            batch = self.batch(each.records, seed)
            hashes = NOTHING
            if self._key is not None and each.step < hashed_steps:
                hashes = _row_hashes(batch, self._key)
            yield Fetched(microbatch=each, batch=batch, hashes=hashes)


class LoaderFeed:
    """Fetches records one by one, in worker processes if there are any."""

    def __init__(
        self,
        data: Dataset[Any],
        workers: int,
        threads: int,
        content_key: bytes | None = None,
        collate: Collate | None = None,
    ) -> None:
        self._seeded = _Seeded(data, threads, content_key, collate)
        self._sampler = _Sampler()
        self._loader = DataLoader(
            self._seeded,
            batch_size=None,
            sampler=cast("Any", self._sampler),
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_as_it_is,
        )

    def batch(self, records: NDArray[np.int64], seed: int, number: int = 0) -> Any:
        """One batch, fetched in this process and collated as the loader would."""
        return self._seeded[_Wanted(records=records.tolist(), seed=seed, number=number)][0]

    def content(self, record: int) -> list[bytes | memoryview]:
        """The content of a record; see `Feed`."""
        return self._seeded.content(int(record))  # what a dataset is asked for is an int

    def batches(
        self, microbatches: Iterable[Microbatch], seed: int, hashed_steps: int = 0
    ) -> Iterator[Fetched]:
        """Read some microbatches; see `Feed`."""
        listed = list(microbatches)
        self._sampler.batches = [
            _Wanted(
                records=each.records.tolist(),
                seed=key(seed, each.step),
                number=each.number,
                is_hashed=each.step < hashed_steps,
            )
            for each in listed
        ]
        for each, (batch, hashes) in zip(listed, self._loader, strict=True):
            yield Fetched(microbatch=each, batch=batch, hashes=hashes)


def _as_it_is(batch: Any) -> Any:
    return batch


def _row_hashes(batch: Sequence[Tensor], content_key: bytes) -> Hashes:
    """What `content_hash` says of each row of some tensors, without cutting them up one by one."""
    heads = [next(iter(content_of(tensor[:1]))) for tensor in batch]
    rows = [_row_bytes(raw_bytes(each.cpu()), len(each)) for each in batch]
    return hashed([str(len(batch)).encode(), *heads], rows, content_key)


def content_hash(pieces: Sequence[bytes | memoryview], content_key: bytes) -> int:
    """The keyed hash of a record, by the content of a batch of it alone."""
    form = [each for each in pieces if not isinstance(each, memoryview)]
    rows = [_row_bytes(each, 1) for each in pieces if isinstance(each, memoryview)]
    return int(hashed(form, rows, content_key)[0])


def _row_bytes(raw: memoryview, count: int) -> NDArray[np.uint8]:
    return np.asarray(raw, dtype=np.uint8).reshape(count, len(raw) // max(1, count))


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


def moved(batch: Any, device: str) -> Any:
    """A batch with all its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return like(batch, {name: moved(value, device) for name, value in batch.items()})
    if isinstance(batch, PackedSequence):
        return batch.to(torch.device(device))  # type: ignore[arg-type]
    if isinstance(batch, list | tuple):
        values = [moved(value, device) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else values
    if callable(getattr(batch, "to", None)):  # a batch of graphs, say
        return batch.to(device)
    return batch


class _Sampler:
    """Hands out the batches laid before it, so that the loader and its workers outlive a block."""

    def __init__(self) -> None:
        self.batches: list[_Wanted] = []

    def __iter__(self) -> Iterator[_Wanted]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A batch to be read.

    Attributes:
        records: Which.
        seed: Each record's own is derived of it.
        number: Of the microbatch.
        is_hashed: Whether the records are.
    """

    records: list[int]
    seed: int
    number: int = 0
    is_hashed: bool = False


class _Seeded(Dataset[Any]):
    """A dataset whose generators are seeded for each record, and for each batch of them."""

    def __init__(
        self,
        data: Dataset[Any],
        threads: int,
        content_key: bytes | None,
        collate: Collate | None,
    ) -> None:
        self._data, self._threads, self._key = data, threads, content_key
        self._collate = collate

    def __getitem__(self, wanted: _Wanted) -> tuple[Any, Hashes]:
        """A batch, and a hash of each of its records where they are asked for."""
        with self._in_threads():
            items, hashes = [], []
            for record in wanted.records:
                seed_for_reading(key(wanted.seed, record))
                item = self._data[record]
                if wanted.is_hashed and self._key:
                    hashes.append(content_hash(self._content(item), self._key))
                items.append(item)
            if self._collate is not None:
                seed_for_reading(key(wanted.seed, "collate", wanted.number))
            return collated(items, self._collate), np.array(hashes, dtype=np.uint32)

    def content(self, record: int) -> list[bytes | memoryview]:
        """The content of a record, seeded as any other: its place must not show in it."""
        with self._in_threads():
            seed_for_reading(_ONE_SEED)
            return self._content(self._data[record])

    def _content(self, item: Any) -> list[bytes | memoryview]:
        if self._collate is None:
            return list(content_of(collated([item])))
        return list(content_before(item))

    @contextlib.contextmanager
    def _in_threads(self) -> Iterator[None]:
        threads = torch.get_num_threads()
        if threads == self._threads:
            yield
            return
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
