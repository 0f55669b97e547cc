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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from obliviate.errors import TrainingFailed
from obliviate.recipe.contents import NOTHING, Hashes, hashed
from obliviate.recipe.deal import key
from obliviate.states.update import raw_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

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

    def batch(self, records: NDArray[np.int64], seed: int) -> Any:
        """One batch, collated, on the CPU."""
        ...

    def alone(self, record: int) -> Any:
        """A batch of one record, read as it would be at any other place in the dataset."""
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
    data: Dataset[Any], workers: int, threads: int = 1, content_key: bytes | None = None
) -> Feed:
    """The feed of a dataset: the direct one only where `TensorDataset`'s own indexing applies.

    Args:
        data: The dataset.
        workers: How many processes fetch records; 0 for this one.
        threads: How many threads a dataset computes with, whoever asks it: a sum over several
            threads has other bits. More than one cannot be had in a worker, which would hang, so
            that records are fetched in this process then.
        content_key: What records are hashed under; 32 bytes. Without it, none are.
    """
    if isinstance(data, TensorDataset) and type(data).__getitem__ is TensorDataset.__getitem__:
        return TensorFeed(data, content_key)
    return LoaderFeed(data, workers if threads == 1 else 0, threads, content_key)


class TensorFeed:
    """Indexes tensors that are in memory already."""

    def __init__(self, data: TensorDataset, content_key: bytes | None = None) -> None:
        self._tensors, self._key = data.tensors, content_key

    def batch(self, records: NDArray[np.int64], seed: int) -> Any:  # noqa: ARG002
        """One batch: the rows of the records, of each tensor."""
        index = torch.from_numpy(records)
        return [tensor[index] for tensor in self._tensors]

    def alone(self, record: int) -> Any:
        """A batch of one record."""
        return self.batch(np.array([record], dtype=np.int64), 0)

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
        self, data: Dataset[Any], workers: int, threads: int, content_key: bytes | None = None
    ) -> None:
        self._seeded = _Seeded(data, threads, content_key)
        self._sampler = _Sampler()
        self._loader = DataLoader(
            self._seeded,
            batch_sampler=cast("Any", self._sampler),
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_collated,
        )

    def batch(self, records: NDArray[np.int64], seed: int) -> Any:
        """One batch, fetched in this process and collated as the loader would."""
        return _collated([self._seeded[each] for each in _keys(records, seed)])[0]

    def alone(self, record: int) -> Any:
        """A batch of one record, seeded as any other: its place must not show in what is drawn."""
        return _collated([self._seeded[record, _ONE_SEED, False]])[0]

    def batches(
        self, microbatches: Iterable[Microbatch], seed: int, hashed_steps: int = 0
    ) -> Iterator[Fetched]:
        """Read some microbatches; see `Feed`."""
        listed = list(microbatches)
        self._sampler.batches = [
            _keys(each.records, key(seed, each.step), is_hashed=each.step < hashed_steps)
            for each in listed
        ]
        for each, (batch, hashes) in zip(listed, self._loader, strict=True):
            yield Fetched(microbatch=each, batch=batch, hashes=hashes)


def _collated(items: Sequence[tuple[Any, int | None]]) -> tuple[Any, Hashes]:
    things, hashes = zip(*items, strict=True)
    known = NOTHING if None in hashes else np.array(hashes, dtype=np.uint32)
    return collated(list(things)), known


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


def _keys(
    records: NDArray[np.int64], seed: int, *, is_hashed: bool = False
) -> list[tuple[int, int, bool]]:
    return [(int(record), key(seed, int(record)), is_hashed) for record in records]


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
        self.batches: list[list[tuple[int, int, bool]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int, bool]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Seeded(Dataset[Any]):
    """A dataset whose generators are seeded for each record."""

    def __init__(self, data: Dataset[Any], threads: int, content_key: bytes | None) -> None:
        self._data, self._threads, self._key = data, threads, content_key

    def __getitem__(self, wanted: tuple[int, int, bool]) -> tuple[Any, int | None]:
        """A record, and its hash where it is asked for."""
        record, seed, is_hashed = wanted
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        item = self._fetched(record)
        if not (is_hashed and self._key):
            return item, None
        return item, content_hash(list(content_of(collated([item]))), self._key)

    def _fetched(self, record: int) -> Any:
        threads = torch.get_num_threads()
        if threads == self._threads:
            return self._data[record]
        torch.set_num_threads(self._threads)
        try:
            return self._data[record]
        finally:
            torch.set_num_threads(threads)
