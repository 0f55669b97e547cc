"""A shard: some of the records, and a model of its own that is trained on them slice by slice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from obliviate.events import Event
from obliviate.lab.baselines.sharding import records_trained
from obliviate.recipe.deal import is_among
from obliviate.recipe.parts import with_part
from obliviate.recipe.subjects import Subjects
from obliviate.run.make import deal_seed, groups_for, new_trainer, trainer_of
from obliviate.training.averages import served_state
from obliviate.training.determinism import Environment
from obliviate.training.model import load_state, model_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import nn

    from obliviate.recipe.parts import Part
    from obliviate.recipe.recipe import Recipe
    from obliviate.training.protocol import BlockTrainer, Checkpoint


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A step that was made.

    Attributes:
        number: From 1.
        checkpoint: The state after it.
    """

    number: int
    checkpoint: Checkpoint


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """A shard of a dataset.

    Step i trains on slices 1 to i together, each epoch in a new order. So a shard is trained, bit
    for bit, as a run is that was made of its first slice and extended by each further one over all
    records (`Run.extend`), with an epoch for a block. A run would keep a checkpoint of each epoch;
    here, as published, there is one of each step.

    Attributes:
        recipe: How it is trained; its seed is the shard's own.
        data: The whole dataset.
        slices: The record ids of each slice.
        people: Whose each record of the whole dataset is.
        epochs: How many epochs each step has.
        environment: In what environment it is trained; see `environment_facts`.
    """

    recipe: Recipe
    data: Dataset[Any]
    slices: tuple[NDArray[np.int64], ...]
    people: Subjects | None
    epochs: tuple[int, ...]
    environment: Mapping[str, str]

    @cached_property
    def members(self) -> NDArray[np.int64]:
        """The ids of its records, slice by slice: the first has the place 0 here."""
        return np.concatenate(self.slices)

    def is_empty(self, erased: NDArray[np.int64]) -> bool:
        """Whether nobody is left in it. Takes sorted ids."""
        return bool(is_among(self.members, erased).all())

    def records_trained(self, first: int, erased: NDArray[np.int64]) -> int:
        """How many records go through its steps, from one on; each time counted.

        Args:
            first: The step to begin with, from 1.
            erased: Sorted ids of records that are left out.
        """
        sizes = [len(ids) - int(is_among(ids, erased).sum()) for ids in self.slices]
        return self.recipe.repeats * records_trained(sizes, self.epochs, first)

    def optimizer_steps(self, first: int) -> int:
        """How many steps its optimizer makes from a step on, those left empty included."""
        recipe, sizes = self.recipe, np.cumsum([len(ids) for ids in self.slices])
        batches = -(-sizes // recipe.batch_size) * np.array(self.epochs) * recipe.repeats
        return int(batches[first - 1 :].sum())

    def training(
        self, start: Checkpoint | None, first: int, erased: NDArray[np.int64]
    ) -> Iterator[Event | Step]:
        """Train from a step on, to the end.

        Args:
            start: The checkpoint before it; the initial state if None.
            first: Its number, from 1.
            erased: Sorted ids of records that are left out; they are never read.

        Yields:
            Each step when it has been made, and in between how many epochs were gone through.

        Raises:
            NotFinite, TrainingFailed: The training failed.
        """
        trainer, parts = self.trainer(), self._parts()
        gone = np.flatnonzero(is_among(self.members, erased))
        ends = {part.first_block + part.length - 1: step for step, part in enumerate(parts, 1)}
        blocks = range(parts[first - 1].first_block, max(ends) + 1)
        how_far = Event(task="train", done=0, total=len(blocks))
        for item in trainer.train(start or trainer.initial(), blocks, gone):
            if isinstance(item, Event):
                yield replace(how_far, done=how_far.done + item.done)
                continue
            how_far = replace(how_far, done=how_far.done + 1, loss=item.loss)
            yield how_far
            if item.block in ends:
                yield Step(number=ends[item.block], checkpoint=item.checkpoint)

    def model(self, checkpoint: Checkpoint) -> nn.Module:
        """A new module with the state of a checkpoint, in eval mode."""
        recipe = self.recipe
        with Environment.of(recipe.device, self.environment).entered():
            model = model_of(recipe.model, recipe.seed, recipe.device)
        load_state(model, served_state(checkpoint.model))
        return model.eval()

    def trainer(self) -> BlockTrainer:
        """What trains it: made when it is needed, for there may be many shards."""
        data, groups = _rows(self.data, self.members), self._groups()
        first = new_trainer(self.recipe, data, len(self.slices[0]), 1)
        layout = replace(first.layout, parts=self._parts(), grouping=lambda: groups)
        return trainer_of(self.recipe, data, layout, environment=self.environment, before=first)

    def _groups(self) -> NDArray[np.int64]:
        """The group of each of its records, by places here."""
        its = None
        if self.people is not None:
            first = [self.people.first[record] for record in self.members.tolist()]
            its = Subjects(first)
        return groups_for(self.recipe, its, range(len(self.members)))

    def _parts(self) -> tuple[Part, ...]:
        """Its steps: parts of one block an epoch."""
        parts: tuple[Part, ...] = ()
        groups, records = self._groups(), 0
        for ids, epochs in zip(self.slices, self.epochs, strict=True):
            records += len(ids)
            parts = with_part(
                parts,
                groups[:records],
                records=len(ids),
                blocks=1,
                epochs=epochs,
                seed=deal_seed(self.recipe),
                is_over_all=bool(parts),
            )
        return parts


def _rows(data: Dataset[Any], ids: NDArray[np.int64]) -> Dataset[Any]:
    """Some records of a dataset; tensors stay tensors, which are read by indexing."""
    if type(data) is TensorDataset:
        return TensorDataset(*(tensor[torch.from_numpy(ids)] for tensor in data.tensors))
    return Subset(data, ids.tolist())
