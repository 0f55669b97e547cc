"""A single model that was trained on everything, by the recipe, and of which no chain is kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from obliviate.desk.subjects import record_ids
from obliviate.errors import InvalidOption, NothingLeft
from obliviate.events import Event
from obliviate.lab.baselines.needs import check_needs
from obliviate.lab.baselines.unlearner import Cost
from obliviate.run.arguments import checked_recipe, cut, data_length
from obliviate.run.make import new_trainer
from obliviate.states.update import captured
from obliviate.training.averages import served_state
from obliviate.training.batches import moved
from obliviate.training.first_step import probe
from obliviate.training.model import load_state
from obliviate.training.protocol import training_over
from obliviate.training.ranks import check_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from obliviate.events import Events
    from obliviate.lab.baselines.needs import Need
    from obliviate.lab.baselines.unlearner import Unlearner
    from obliviate.recipe.recipe import Project
    from obliviate.states.update import State
    from obliviate.training.protocol import BlockTrainer

    Rule: TypeAlias = "Callable[[SingleModel, Request], Events[Work]]"

_NOBODY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What some training went through; see `Cost`."""

    steps: int = 0
    records: int = 0


@dataclass(frozen=True, kw_only=True)
class Request:
    """Who is to be forgotten now.

    Attributes:
        records: Sorted ids of those that were not forgotten before. Shape (n,).
        gone: Those, and all that were forgotten before, sorted. Shape (m,).
        retained: Everybody else, sorted.
        number: How many requests came before.
    """

    records: NDArray[np.int64]
    gone: NDArray[np.int64]
    retained: NDArray[np.int64]
    number: int


class SingleModel:
    """A model, and the rule by which it forgets: what `Prepared` asks for.

    Attributes:
        project: What it was trained by.
        trainer: Whose live module the model is. Averages of the weights, where the recipe has some,
            stand in their place.
        gone: Who was forgotten, sorted.
        cost: What preparing took.
        disk_bytes: What is kept on disk to forget with.
        models: How many models a prediction asks.
    """

    cost: Cost

    def __init__(self, project: Project, rule: Rule) -> None:
        """See that a project can be trained.

        Args:
            project: The project.
            rule: How the model forgets.

        Raises:
            InvalidRecipe, NotDeterministic, TrainingFailed, NotFinite: It cannot.
            InvalidOption: There are several ranks.
        """
        check_alone("a baseline")
        recipe, records = checked_recipe(project.recipe), data_length(project.data)
        blocks, people = cut(project.blocks, project.subjects, records)
        self.trainer: BlockTrainer = new_trainer(recipe, project.data, records, blocks, people)
        probe(self.trainer, _NOBODY)
        self.project, self._rule = project, rule
        self.gone, self.disk_bytes, self.models = _NOBODY, 0, 1
        self._requests = 0

    @property
    def model(self) -> nn.Module:
        """The module."""
        return self.trainer.model

    def train(self, erased: NDArray[np.int64], task: str) -> Events[Work]:
        """Train from the initial weights to the end, as `fit` does: with the same bits."""
        trainer, layout = self.trainer, self.trainer.layout
        blocks = range(1, layout.blocks + 1)
        last = yield from training_over(trainer, trainer.initial(), blocks, erased, task=task)
        self.load(served_state(last.model))
        steps = sum(map(layout.steps, blocks))
        return Work(steps=steps, records=self._retrained(len(erased)))

    def prepare(self) -> Events[None]:
        """Train on everything, once."""
        started = time.perf_counter()
        work = yield from self.train(_NOBODY, "train")
        self.cost = self.cost_of(work, started)

    def forget(self, records: NDArray[np.int64]) -> Events[Cost]:
        """See `Prepared.forget`."""
        started = time.perf_counter()
        request = self.request(records)
        if not len(request.records):
            yield Event(task="forget", done=1, total=1)
            return Cost(seconds=time.perf_counter() - started, steps=0, records=0, share=0.0)
        before = self.state()
        try:
            work = yield from self._rule(self, request)
        except BaseException:
            self.load(before)
            raise
        self.model.eval()
        self.gone, self._requests = request.gone, self._requests + 1
        return self.cost_of(work, started)

    def request(self, records: NDArray[np.int64]) -> Request:
        """Who is to be forgotten now, and who is left then.

        Raises:
            InvalidOption, UnknownRecord, NothingLeft: The records cannot be forgotten.
        """
        count = self.trainer.layout.records
        ids = record_ids(records, count)
        if not len(ids):
            raise InvalidOption("nobody is named", hint="give the ids of records")
        gone = np.union1d(self.gone, ids)
        if len(gone) == count:
            raise NothingLeft(
                "these are all the records there are", hint="name fewer: somebody has to be left"
            )
        return Request(
            records=np.setdiff1d(ids, self.gone),
            gone=gone,
            retained=np.setdiff1d(np.arange(count, dtype=np.int64), gone),
            number=self._requests,
        )

    def state(self) -> dict[str, Tensor]:
        """A copy of the model's state."""
        return captured(self.model.state_dict())

    def load(self, state: State) -> None:
        """Give the model a state, and leave it in evaluation mode."""
        load_state(self.model, state)
        self.model.zero_grad()
        self.model.eval()

    def predict(self, inputs: Any) -> Tensor:
        """See `Prepared.predict`."""
        with torch.no_grad():
            outputs: Tensor = self.model.eval()(moved(inputs, self.trainer.recipe.device))
            return outputs

    def close(self) -> None:
        """See `Prepared.close`: there is nothing but memory."""

    def _retrained(self, gone: int) -> int:
        """How many records go through training anew without some."""
        recipe = self.trainer.recipe
        return (self.trainer.layout.records - gone) * recipe.epochs * recipe.repeats

    def cost_of(self, work: Work, started: float) -> Cost:
        """What some work cost, that began at a time by `time.perf_counter`."""
        return Cost(
            seconds=time.perf_counter() - started,
            steps=work.steps,
            records=work.records,
            share=work.records / self._retrained(len(self.gone)),
        )


def untrained(
    project: Project, unlearner: Unlearner, rule: Rule, *, needs: Sequence[Need] = ()
) -> SingleModel:
    """A model that can be trained.

    Args:
        project: The project.
        unlearner: Who asks, for messages.
        rule: How the model forgets.
        needs: What the project must have for it.

    Raises:
        Unsupported: It has not.
        InvalidRecipe, NotDeterministic, TrainingFailed, NotFinite: It cannot be trained.
    """
    model = SingleModel(project, rule)
    check_needs(unlearner.name, model.trainer, needs)
    return model


def trained(
    project: Project, unlearner: Unlearner, rule: Rule, *, needs: Sequence[Need] = ()
) -> Events[SingleModel]:
    """A model that was trained on everything; see `untrained`."""
    model = untrained(project, unlearner, rule, needs=needs)
    yield from model.prepare()
    return model
