"""Strictness: what it costs to be held to deterministic algorithms, on a project of one's own."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from obliviate.options import whole
from obliviate.run.arguments import cut, data_length
from obliviate.run.make import new_trainer
from obliviate.training.determinism import Environment
from obliviate.training.protocol import trained_block

if TYPE_CHECKING:
    from obliviate.recipe.recipe import Project
    from obliviate.training.protocol import BlockTrainer

STEPS, TURNS = 20, 3
_NOBODY = np.array([], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Strictness:
    """What deterministic algorithms cost.

    Attributes:
        steps: How many steps were made each time, about as many as were asked for.
        strict_seconds: What they took with deterministic algorithms, median.
        free_seconds: Without.
        ratio: How many times as long a step takes for being the same each time.
    """

    steps: int
    strict_seconds: float
    free_seconds: float
    ratio: float


def strictness(project: Project, *, steps: int = STEPS, turns: int = TURNS) -> Strictness:
    """Make a few steps of a project with and without deterministic algorithms, in turn.

    Nothing is kept of them. Where an operation has no deterministic algorithm, only training
    without would run, and there is nothing to compare.

    Args:
        project: The project.
        steps: About how many; a first time, to warm up, is not counted.
        turns: How often each.

    Raises:
        InvalidOption: A number is too small.
        NotDeterministic: torch refuses an operation.
        InvalidRecipe, TrainingFailed, NotFinite: The project cannot be trained.
    """
    steps, turns = whole(steps, "steps", least=1), whole(turns, "turns", least=1)
    recipe, records = project.recipe, data_length(project.data)
    once = math.ceil(records / recipe.batch_size)  # steps of an epoch, gone through once
    wanted = min(max(1, once * recipe.repeats // steps), records)
    blocks, people = cut(wanted, project.subjects, records)
    trainer = new_trainer(recipe, project.data, records, blocks, people)
    strict = trainer.environment
    free = Environment(recipe.device, strict.threads, strict.facts, is_strict=False)
    seconds: dict[Environment, list[float]] = {strict: [], free: []}
    for _ in range(turns + 1):
        for environment, some in seconds.items():
            trainer.environment = environment
            some.append(_seconds(trainer))
    held, freed = (statistics.median(some[1:]) for some in seconds.values())
    return Strictness(
        steps=trainer.layout.steps(1), strict_seconds=held, free_seconds=freed, ratio=held / freed
    )


def _seconds(trainer: BlockTrainer) -> float:
    """How long the first block takes. Its state is read at its end, so no GPU is ahead then."""
    return trained_block(trainer, 1, trainer.initial, _NOBODY).seconds
