"""Bench: what forgetting one record costs on a project of the user's own."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from obliviate.disk.scratch import scratch
from obliviate.errors import InvalidRecipe
from obliviate.events import Events, watched
from obliviate.lab import accuracy
from obliviate.methods.registry import names
from obliviate.run import load
from obliviate.run.start import fit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from obliviate.ledger.facts import Guarantee
    from obliviate.recipe.recipe import Project
    from obliviate.run import Run


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """What one method made of the request.

    Attributes:
        method: Its name.
        seconds: From the request to the usable model.
        blocks_replayed: How many blocks were trained on again.
        speedup: Against a full retrain, from measured block times.
        accuracy: Of the model afterwards on the test records; None without any.
        guarantee: Of that model.
    """

    method: str
    seconds: float
    blocks_replayed: int
    speedup: float
    accuracy: float | None
    guarantee: Guarantee


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a project costs to train, and to forget one record from.

    Attributes:
        blocks: How many blocks the chain had.
        record: The record that was erased, drawn under the recipe's seed.
        block: Its block.
        seconds: How long training took in all.
        training_per_block: Seconds of training for each block.
        overhead_per_block: Seconds for each block that keeping the chain took beside.
        accuracy: Of the model before.
        rows: One for each method that the recipe allows for.
        refused: The others, with the reason.
    """

    blocks: int
    record: int
    block: int
    seconds: float
    training_per_block: float
    overhead_per_block: float
    accuracy: float | None
    rows: tuple[BenchRow, ...]
    refused: Mapping[str, str]


@watched
def bench(project: Project, blocks: int | None = None) -> Events[Bench]:
    """Train a project in a temporary folder and forget one random record by each method.

    Each method works on a fresh copy of the run.

    Args:
        project: The project; nothing of it is changed.
        blocks: How many blocks to cut an epoch into, instead of its own number.
    """
    with scratch() as folder:
        started = time.perf_counter()
        run = yield from fit.events(
            project.recipe,
            project.data,
            folder / "run",
            blocks=project.blocks if blocks is None else blocks,
            subjects=project.subjects,
            reference=project.reference,
        )
        seconds = time.perf_counter() - started
        training = sum(entry.seconds for entry in run.chain().entries)
        record = int(np.random.default_rng(project.recipe.seed).integers(run.facts.records))
        block = int(run.trainer.layout.places(np.array([record])).earliest[0])
        before, count = _accuracy(run.model, project), run.facts.blocks
        run.ledger.close()
        rows: list[BenchRow] = []
        refused: dict[str, str] = {}
        for method in names():
            shutil.copytree(run.folder, folder / method)
            copy = load(folder / method, project.recipe, project.data, reference=project.reference)
            try:
                rows.append((yield from _row(copy, record, method, project)))
            except InvalidRecipe as error:  # calibrated needs a loss of single records
                refused[method] = error.message
    return Bench(
        blocks=count,
        record=record,
        block=block,
        seconds=seconds,
        training_per_block=training / count,
        overhead_per_block=max(0.0, seconds - training) / count,
        accuracy=before,
        rows=tuple(rows),
        refused=refused,
    )


def _row(run: Run, record: int, method: str, project: Project) -> Events[BenchRow]:
    erasure = yield from run.forget.events(records=[record], method=method)
    measured = _accuracy(erasure.model, project)
    run.ledger.close()
    return BenchRow(
        method=method,
        seconds=erasure.seconds,
        blocks_replayed=erasure.blocks_replayed,
        speedup=erasure.speedup,
        accuracy=measured,
        guarantee=erasure.guarantee,
    )


def _accuracy(model: nn.Module, project: Project) -> float | None:
    recipe = project.recipe
    return accuracy(model, project.test, recipe.device, recipe.collate)
