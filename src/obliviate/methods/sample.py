"""Samples: records that are read once and kept in memory, to be scored again and again."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from obliviate.errors import TrainingFailed
from obliviate.methods.slices import singles
from obliviate.recipe.deal import key, keyed_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from obliviate.recipe.recipe import Recipe
    from obliviate.training.layout import Layout
    from obliviate.training.protocol import BlockTrainer


class Source(Protocol):
    """What records are read from."""

    def batch(self, records: NDArray[np.int64], seed: int = 0) -> Any:
        """Some records, collated, on the recipe's device."""
        ...


class PeopledSource(Source, Protocol):
    """What references are read from.

    Attributes:
        people: Whose each is, by number; None where that is not known. Shape (n,).
    """

    people: NDArray[np.int64] | None

    def __len__(self) -> int:
        """How many there are."""
        ...


CONTROLS = 32
MOST_ERASED = 128  # so many of the erased records are scored at most
BATCHES_AT_ONCE = 4  # without gradients, several training batches fit where one did


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some records in memory.

    Attributes:
        ids: Which. Shape (n,).
        batches: Their content, on the recipe's device.
        sizes: How many records each batch holds.
    """

    ids: NDArray[np.int64]
    batches: tuple[Any, ...]
    sizes: tuple[int, ...]


NOTHING = Sample(ids=np.empty(0, dtype=np.int64), batches=(), sizes=())


def control_ids(
    layout: Layout, seed: int, erased: NDArray[np.int64], gone: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Retained records of the blocks of some records; of the nearest blocks, where few are left.

    Args:
        layout: Who is where.
        seed: The run's.
        erased: The records of the request.
        gone: All erased records, sorted.
    """
    blocks = np.unique(layout.places(erased).latest)
    wanted = min(max(CONTROLS, len(erased)), MOST_ERASED)
    distance = np.abs(np.arange(1, layout.blocks + 1)[:, None] - blocks[None, :]).min(axis=1)
    chosen_ids = np.empty(0, dtype=np.int64)
    for away in range(layout.blocks):
        near = [layout.members(int(block) + 1) for block in np.flatnonzero(distance == away)]
        fresh = np.setdiff1d(np.concatenate([np.empty(0, dtype=np.int64), *near]), gone)
        order = np.argsort(keyed_hash(fresh, key(seed, "controls")))
        chosen_ids = np.concatenate([chosen_ids, fresh[order][: wanted - len(chosen_ids)]])
        if len(chosen_ids) >= wanted:
            break
    return np.sort(chosen_ids)


def read(trainer: BlockTrainer, ids: NDArray[np.int64]) -> Sample:
    """Read records.

    Raises:
        TrainingFailed: The dataset raised.
    """
    return read_from(trainer.reader, trainer.recipe, ids)


def read_from(source: Source, recipe: Recipe, ids: NDArray[np.int64]) -> Sample:
    """Read records of the training data, or of another dataset.

    Raises:
        TrainingFailed: The dataset raised.
    """
    at_once = BATCHES_AT_ONCE * recipe.batch_size
    parts = [ids[start : start + at_once] for start in range(0, len(ids), at_once)]
    seed = key(recipe.seed, "score")
    batches = tuple(source.batch(part, seed) for part in parts)
    return Sample(ids=ids, batches=batches, sizes=tuple(map(len, parts)))


def reference_ids(count: int, seed: int, wanted: int) -> NDArray[np.int64]:
    """Some of so many references: the same ones in every erasure of a run.

    In an order of chance: of those that come first a part is taken again, and references of one
    person may lie together.
    """
    ids = np.arange(count, dtype=np.int64)
    return ids[np.argsort(keyed_hash(ids, key(seed, "references")))[:wanted]]


def read_what_is_there(trainer: BlockTrainer, ids: NDArray[np.int64]) -> Sample:
    """Read records that may be gone already; those for which the dataset raises are left out."""
    try:
        return read(trainer, ids)
    except TrainingFailed:
        samples = []
        for record in ids:
            with contextlib.suppress(TrainingFailed):
                samples.append(read(trainer, np.array([record])))
        return joined(samples)


def joined(samples: Sequence[Sample]) -> Sample:
    """Several samples as one."""
    return Sample(
        ids=np.concatenate([NOTHING.ids, *(each.ids for each in samples)]),
        batches=tuple(batch for each in samples for batch in each.batches),
        sizes=tuple(size for each in samples for size in each.sizes),
    )


def merged(sample: Sample, at_once: int) -> Sample:
    """A sample in one batch, where its batches are tuples of tensors and few enough records."""
    size = sum(sample.sizes)
    if size > at_once or not sample.batches or not all(map(_is_of_tensors, sample.batches)):
        return sample
    columns = list(zip(*sample.batches, strict=True))
    if any(len({column.shape[1:] for column in each}) > 1 for each in columns):
        return sample
    whole = type(sample.batches[0])(torch.cat(column) for column in columns)
    return Sample(ids=sample.ids, batches=(whole,), sizes=(size,))


def _is_of_tensors(batch: Any) -> bool:
    return type(batch) in (list, tuple) and all(
        isinstance(each, Tensor) and each.ndim > 0 and len(each) == len(batch[0]) for each in batch
    )


def chosen(sample: Sample, is_kept: NDArray[np.bool_]) -> Sample:
    """The records of a sample that are flagged."""
    if is_kept.all():
        return sample
    single = [
        each
        for batch, size in zip(sample.batches, sample.sizes, strict=True)
        for each in singles(batch, size)
    ]
    kept = [batch for batch, keep in zip(single, is_kept, strict=True) if keep]
    return Sample(ids=sample.ids[is_kept], batches=tuple(kept), sizes=(1,) * len(kept))
