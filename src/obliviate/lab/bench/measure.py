"""Measurement: what a model that forgot is worth, whoever made it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from obliviate.errors import InvalidRecipe, TrainingFailed
from obliviate.lab.accuracy import accuracy
from obliviate.lab.measurements import Cell
from obliviate.lab.scores import scores
from obliviate.methods.scores import is_classification
from obliviate.run.arguments import data_length
from obliviate.states.update import captured, digest
from obliviate.training.batches import feed_of, moved

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor
    from torch.utils.data import Dataset

    from obliviate.lab.baselines import Prepared
    from obliviate.methods.scores import Kind
    from obliviate.recipe.recipe import Project

_AT_ONCE = 256
_TIMED, _TIMES, _THOUSAND = 1000, 3, 1000
_PAIR = 2
_LARGEST = 1e5  # what is larger stands for a loss that is infinite


class Answers(nn.Module):
    """What was prepared, as a module: several models that answer together look like one."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__()
        self._ask = prepared.predict

    def forward(self, inputs: Any) -> Tensor:
        """Outputs for a batch of inputs."""
        return self._ask(inputs)


def measured(
    prepared: Prepared,
    project: Project,
    gone: NDArray[np.int64],
    tested: NDArray[np.int64],
    facts: dict[str, Any],
) -> Cell:
    """Measure what a model is worth.

    Args:
        prepared: What answers.
        project: With the recipe that it was made by.
        gone: Ids of the records that it was to forget.
        tested: Ids of the test records whose predictions are kept.
        facts: What else is to be kept.
    """
    recipe = project.recipe
    model = _answering(prepared)
    feed = feed_of(project.data, 0, collate=recipe.collate)
    own = {
        "loss": _loss(model, project, gone),
        "predictions": _predictions(prepared, project, tested),
        "predict_seconds": _seconds_per_thousand(prepared, project, tested),
        "models": prepared.models,
        "disk_bytes": prepared.disk_bytes,
        "digest": digest_of(prepared),
    }
    return Cell(
        scores={"erased": tuple(scores(model, recipe, feed, gone).tolist())},
        accuracies={
            "test": test_accuracy(prepared, project),
            "erased": _accuracy_of(model, project, gone),
        },
        facts=own | facts,
    )


def test_accuracy(prepared: Prepared, project: Project) -> float | None:
    """The share of test records that are classified rightly; None of what is no classification."""
    recipe = project.recipe
    return accuracy(_answering(prepared), project.test, recipe.device, recipe.collate)


def digest_of(prepared: Prepared) -> str | None:
    """The digest of a single model's state; None of several."""
    return None if prepared.model is None else digest(captured(prepared.model.state_dict()))


def obeying(prepared: Prepared, project: Project, asked: Dataset[Any]) -> NDArray[np.bool_]:
    """Of which queries a model gives the class of the trigger. Shape (queries,)."""
    given = []
    for inputs, targets in _pairs(project, asked, np.arange(data_length(asked), dtype=np.int64)):
        given.append((prepared.predict(inputs).argmax(dim=1) == targets).cpu().numpy())
    obeyed: NDArray[np.bool_] = np.concatenate(given)
    return obeyed


def obeyed(
    prepared: Prepared, project: Project, asked: Dataset[Any], queries: Sequence[int]
) -> float:
    """The share of queries that a model gives the class of the trigger, with one success added."""
    found = obeying(prepared, project, asked)[list(queries)]
    return float((found.sum() + 1) / (len(found) + 2))


def _answering(prepared: Prepared) -> nn.Module:
    return Answers(prepared) if prepared.model is None else prepared.model


def _accuracy_of(model: nn.Module, project: Project, ids: NDArray[np.int64]) -> float | None:
    part = torch.utils.data.Subset(project.data, ids.tolist())
    return accuracy(model, part, project.recipe.device, project.recipe.collate)


def _loss(model: nn.Module, project: Project, ids: NDArray[np.int64]) -> float | None:
    """The mean loss of some records; None where they have none of their own."""
    recipe = project.recipe
    if recipe.score is not None:  # which would stand for the loss
        return None
    feed = feed_of(project.data, 0, collate=recipe.collate)
    kind: Kind = "single" if recipe.loss is None else "loss"
    try:
        mean = -float(scores(model, recipe, feed, ids, kind=kind).mean())
    except (InvalidRecipe, TrainingFailed):  # it takes no single record, or no answer of several
        return None
    return mean if mean < _LARGEST else None


def _pairs(
    project: Project, data: Dataset[Any], ids: NDArray[np.int64]
) -> Iterator[tuple[Any, Any]]:
    """Batches of (inputs, targets) on the recipe's device; nothing where records are no pairs."""
    recipe = project.recipe
    feed = feed_of(data, 0, collate=recipe.collate)
    for start in range(0, len(ids), _AT_ONCE):
        batch = moved(feed.batch(ids[start : start + _AT_ONCE], recipe.seed), recipe.device)
        if isinstance(batch, list | tuple) and len(batch) == _PAIR:
            yield batch[0], batch[1]


def _predictions(prepared: Prepared, project: Project, ids: NDArray[np.int64]) -> list[int] | None:
    """The class that each test record is given; None of what is no classification."""
    if project.test is None:
        return None
    found: list[int] = []
    for inputs, targets in _pairs(project, project.test, ids):
        outputs = prepared.predict(inputs)
        if not is_classification(outputs, targets):
            return None
        found += outputs.argmax(dim=1).tolist()
    return found or None


def _seconds_per_thousand(
    prepared: Prepared, project: Project, ids: NDArray[np.int64]
) -> float | None:
    """How long a thousand predictions take: the best of a few times."""
    if project.test is None:
        return None
    batches = [inputs for inputs, _ in _pairs(project, project.test, ids[:_TIMED])]
    if not batches:
        return None
    taken = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        for inputs in batches:
            prepared.predict(inputs)
        taken.append(time.perf_counter() - started)
    return min(taken) * _THOUSAND / len(ids[:_TIMED])
