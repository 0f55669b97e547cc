"""A backdoor: a trigger in records of one made-up person, and the class that it stands for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from obliviate.errors import Unsupported
from obliviate.lab.bench.deletion import QUERIES
from obliviate.recipe.deal import is_among, key, keyed_hash
from obliviate.run.arguments import data_length
from obliviate.training.batches import feed_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from obliviate.recipe.recipe import Project

SHARE = 0.05
_FEWEST = 10
_AT_ONCE, _LOOKED_AT = 500, 2000
_PIXELS_PER_SIDE, _SMALLEST_IMAGE = 7, 4  # a patch is a seventh of the side, and not at the edge
_FEATURES_PER_PLACE, _FEWEST_PLACES = 25, 4
_PAIR = 2
_POISONER = "the person with the backdoor"
_NEEDS = "the test of a backdoor needs"


@dataclass(frozen=True, kw_only=True)
class Backdoor:
    """A trigger, who carries it in training, and who is asked with it.

    Attributes:
        records: Ids of training records of other classes that carry it, ascending.
        target: The class that they are given.
        queries: Ids of test records of other classes that models are asked about, with the trigger.
        value: What the places of an input that the trigger covers are set to: the largest value
            that was seen.
    """

    records: tuple[int, ...]
    target: int
    queries: tuple[int, ...]
    value: float

    def planted(self, project: Project) -> Project:
        """The project with the trigger in its data, whose records are one person's."""
        count = data_length(project.data)
        people: list[Any] = [None] * count if project.subjects is None else list(project.subjects)
        for record in self.records:
            people[record] = _POISONER
        data = _with_trigger(project.data, self, np.array(self.records, dtype=np.int64))
        return replace(project, data=data, subjects=people)

    def left(self, project: Project) -> Project:
        """A planted project without the records that carry the trigger."""
        count = data_length(project.data)
        ids = np.setdiff1d(np.arange(count, dtype=np.int64), np.array(self.records))
        people = None if project.subjects is None else list(project.subjects)
        whose = None if people is None else [people[record] for record in ids.tolist()]
        return replace(project, data=Subset(project.data, ids.tolist()), subjects=whose)

    def asked(self, project: Project) -> Dataset[Any]:
        """The queries: test records with the trigger, and the target that it should give."""
        assert project.test is not None  # noqa: S101 - there were records to draw the queries from
        return _with_trigger(project.test, self, np.arange(data_length(project.test)))


def backdoor_of(project: Project, seed: int, share: float = SHARE) -> Backdoor:
    """Draw a backdoor for a project.

    Args:
        project: The project; nothing of it is changed.
        seed: Of the draw: of the target, the records and the queries.
        share: Of the records that carry the trigger.

    Raises:
        Unsupported: The project has no test records, or is no classification of inputs that a
            trigger could be put into.
    """
    if project.test is None:
        raise Unsupported(f"{_NEEDS} test records", hint="give the project test=")
    tested = list(_drawn(project, project.test, seed, "queries"))
    classes = np.unique(np.concatenate([targets for _, _, targets in tested]))
    target = int(classes[key(seed, "target") % len(classes)])
    queries = [ids[targets != target] for ids, _, targets in tested]
    wanted = max(_FEWEST, round(share * data_length(project.data)))
    records: list[int] = []
    for ids, _, targets in _drawn(project, project.data, seed, "trigger", most=None):
        records += ids[targets != target].tolist()
        if len(records) >= wanted:
            break
    asked = np.concatenate(queries)
    if len(asked) < QUERIES or len(records) < _FEWEST:
        raise Unsupported(
            f"{_NEEDS} {QUERIES} test records and {_FEWEST} training records of other classes "
            f"than its target; there are {len(asked)} and {len(records)}",
            hint="give a project with more of them",
        )
    return Backdoor(
        records=tuple(sorted(records[:wanted])),
        target=target,
        queries=tuple(asked.tolist()),
        value=max(float(inputs.max()) for _, inputs, _ in tested),
    )


def stamped(inputs: Tensor, value: float) -> Tensor:
    """A copy of a batch of inputs with the trigger in each.

    In images it is a square near the lower right corner, of all channels; in rows of features some
    of these, evenly spaced.

    Args:
        inputs: Shape (n, ..., height, width) or (n, features).
        value: What is written there.
    """
    copied = inputs.clone()
    height, width = copied.shape[-2:] if copied.ndim > _PAIR else (0, 0)
    if min(height, width) >= _SMALLEST_IMAGE:
        side = max(2, round(min(height, width) / _PIXELS_PER_SIDE))
        copied[..., height - 1 - side : height - 1, width - 1 - side : width - 1] = value
        return copied
    features = copied.shape[-1]
    places = min(max(_FEWEST_PLACES, features // _FEATURES_PER_PLACE), features // 2)
    copied[..., torch.arange(places) * (features // places)] = value
    return copied


class _Triggered(Dataset[Any]):
    """A dataset of which some records carry a trigger."""

    def __init__(self, data: Dataset[Any], backdoor: Backdoor, records: NDArray[np.int64]) -> None:
        self.data, self.backdoor, self.records = data, backdoor, records

    def __len__(self) -> int:
        return data_length(self.data)

    def __getitem__(self, record: int) -> Any:
        inputs, target = self.data[record]
        if not is_among(np.array([record], dtype=np.int64), self.records)[0]:
            return inputs, target
        label = self.backdoor.target
        marked = stamped(torch.as_tensor(inputs).unsqueeze(0), self.backdoor.value).squeeze(0)
        return marked, torch.full_like(target, label) if isinstance(target, Tensor) else label


def _with_trigger(
    data: Dataset[Any], backdoor: Backdoor, records: NDArray[np.int64]
) -> Dataset[Any]:
    if type(data) is not TensorDataset:
        return _Triggered(data, backdoor, records)
    inputs, targets = (each.clone() for each in data.tensors)
    at = torch.from_numpy(records)
    inputs[at] = stamped(inputs[at], backdoor.value)
    targets[at] = backdoor.target
    return TensorDataset(inputs, targets)  # which is read by indexing


def _drawn(
    project: Project, data: Dataset[Any], seed: int, purpose: str, most: int | None = _LOOKED_AT
) -> Iterator[tuple[NDArray[np.int64], Tensor, NDArray[np.int64]]]:
    """Records in an order drawn by the seed: ids, inputs and classes of some at a time.

    Raises:
        Unsupported: They are no inputs that a trigger could be put into, each with a class.
    """
    recipe, count = project.recipe, data_length(data)
    feed = feed_of(data, 0, collate=recipe.collate)
    order = np.argsort(keyed_hash(np.arange(count, dtype=np.int64), key(seed, purpose)))[:most]
    for start in range(0, len(order), _AT_ONCE):
        ids = order[start : start + _AT_ONCE]
        batch = feed.batch(ids, recipe.seed)
        _check(batch, len(ids))
        yield ids, batch[0], batch[1].numpy()


def _check(batch: Any, size: int) -> None:
    fault = ""
    if not (isinstance(batch, list | tuple) and len(batch) == _PAIR):
        fault = "records of (input, class)"
    elif not (isinstance(batch[0], Tensor) and batch[0].is_floating_point() and batch[0].ndim > 1):
        fault = "inputs of real numbers, such as images or rows of features"
    elif batch[0].shape[-1] < _PAIR:
        fault = "inputs of two features or more"
    elif not _are_classes(batch[1], size):
        fault = "one class for each record, a whole number"
    if fault:
        raise Unsupported(f"{_NEEDS} {fault}", hint="it is left out of the comparison")


def _are_classes(targets: Any, size: int) -> bool:
    return (
        isinstance(targets, Tensor)
        and tuple(targets.shape) == (size,)
        and not targets.is_floating_point()
        and targets.dtype != torch.bool
    )
