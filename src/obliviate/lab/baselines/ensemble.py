"""An ensemble: what `Sisa` trains, and what forgets then."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from obliviate.desk.subjects import record_ids
from obliviate.disk.lock import alone
from obliviate.errors import InvalidOption, NothingLeft
from obliviate.events import Event
from obliviate.lab.baselines.checkpoints import Checkpoints
from obliviate.lab.baselines.unlearner import Cost
from obliviate.lab.baselines.voting import log_shares
from obliviate.training.batches import moved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from obliviate.events import Events
    from obliviate.lab.baselines.checkpoints import Kept
    from obliviate.lab.baselines.shard import Shard
    from obliviate.lab.baselines.sharding import Placement
    from obliviate.lab.baselines.voting import Aggregate


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A shard that is to be trained.

    Attributes:
        number: Its own, from 0.
        shard: The shard.
        before: The checkpoint to begin with; None for the initial state.
    """

    number: int
    shard: Shard
    before: Kept | None

    @property
    def first(self) -> int:
        """The step to begin with, from 1."""
        return self.before.step + 1 if self.before else 1

    @property
    def epochs(self) -> int:
        """How many epochs are to be gone through."""
        return sum(self.shard.epochs[self.first - 1 :])


class Ensemble:
    """A model of each shard, which are asked together; see `Prepared`.

    A shard of which nobody is left has no model, and no vote.

    Attributes:
        cost: What preparing took; where it went on, what was left to do.
        serving: The models, in evaluation mode, by the numbers of their shards.
    """

    def __init__(
        self, folder: Path, shards: Sequence[Shard], placement: Placement, aggregate: Aggregate
    ) -> None:
        """Take up a folder, which nobody else can use until `close`.

        Args:
            folder: Where the checkpoints are, or will be.
            shards: What is trained.
            placement: Who is in which.
            aggregate: How the models are asked together.

        Raises:
            RunLocked: Somebody else uses it.
            RunDamaged: It is not what was written there.
        """
        self.cost = Cost(seconds=0.0, steps=0, records=0, share=0.0)
        self._shards, self._placement, self._aggregate = shards, placement, aggregate
        self.serving: dict[int, nn.Module] = {}
        with contextlib.ExitStack() as held:
            held.enter_context(alone(folder, is_patient=False))
            self._checkpoints = Checkpoints(folder)
            self._held = held.pop_all()

    @property
    def models(self) -> int:
        """How many models a prediction asks."""
        return len(self.serving)

    @property
    def model(self) -> nn.Module | None:
        """The model, where there is only one."""
        return next(iter(self.serving.values())) if self.models == 1 else None

    @property
    def disk_bytes(self) -> int:
        """What the checkpoints take on disk: of each shard one after each step."""
        return self._checkpoints.disk_bytes

    @property
    def erased(self) -> NDArray[np.int64]:
        """Everybody who was forgotten, sorted."""
        return self._checkpoints.erased

    def prepare(self, facts: Mapping[str, Any]) -> Events[None]:
        """Train what is missing, and finish a request that a killed process had begun.

        Args:
            facts: What the folder is made for.

        Raises:
            InvalidOption: It was made for something else.
        """
        started = time.perf_counter()
        if self._checkpoints.facts is None:
            self._checkpoints.make(facts)
        self._check(facts)
        self._checkpoints.sweep()
        if len(self._checkpoints.asked):
            self.cost = yield from self._carrying_out(started, "prepare")
        else:
            self.cost = yield from self._training(started, "prepare", {}, self.erased)
        for number, shard in enumerate(self._shards):
            if number not in self.serving and not shard.is_empty(self.erased):
                kept = self._checkpoints.last(number, {})
                assert kept is not None  # noqa: S101 - it was trained to its end
                self.serving[number] = shard.model(self._checkpoints.read(kept))

    def forget(self, records: NDArray[np.int64]) -> Events[Cost]:
        """Train the shards that hold some records again, from the checkpoint before the first.

        See `Prepared.forget`. Killed, it goes on when the folder is prepared again.
        """
        started = time.perf_counter()
        ids = record_ids(records, self._placement.records)
        if not len(ids):
            raise InvalidOption("nobody is named", hint="give the ids of records")
        new = np.setdiff1d(ids, self.erased)
        if not len(new):
            yield Event(task="forget", done=1, total=1)
            return Cost(seconds=time.perf_counter() - started, steps=0, records=0, share=0.0)
        if len(self.erased) + len(new) == self._placement.records:
            raise NothingLeft(
                "these are all the records there are", hint="name fewer: somebody has to be left"
            )
        if len(self._checkpoints.asked):
            self._checkpoints.take_back()  # what an earlier call could not, since the disk failed
        self._checkpoints.ask(new)
        return (yield from self._carrying_out(started, "forget"))

    def predict(self, inputs: Any) -> Tensor:
        """The logarithm of the shares of votes, or of the mean probabilities.

        See `Prepared.predict`.
        """
        with torch.no_grad():
            there = moved(inputs, self._shards[0].recipe.device)
            outputs = [model(there) for model in self.serving.values()]
            return log_shares(outputs, self._aggregate)

    def close(self) -> None:
        """Let go of the folder."""
        self._held.close()

    def _check(self, facts: Mapping[str, Any]) -> None:
        known = self._checkpoints.facts or {}
        others = [name for name in facts if known.get(name) != facts[name]]
        if others:
            raise InvalidOption(
                f"{self._checkpoints.folder} was prepared otherwise, with another "
                f"{', '.join(others)}",
                hint="give what it was prepared with, or an empty folder",
            )

    def _carrying_out(self, started: float, task: str) -> Events[Cost]:
        """Carry out the request that is noted, or take it back."""
        checkpoints = self._checkpoints
        first = self._placement.earliest(checkpoints.asked)
        erased = np.union1d(checkpoints.erased, checkpoints.asked)
        serving = dict(self.serving)
        try:
            cost = yield from self._training(started, task, first, erased)
        except BaseException:
            self.serving = serving
            checkpoints.take_back()
            raise
        checkpoints.carry_out(first)
        return cost

    def _training(
        self, started: float, task: str, first: Mapping[int, int], erased: NDArray[np.int64]
    ) -> Events[Cost]:
        """Train all shards to their ends.

        Args:
            started: When the call came.
            task: What its events call it.
            first: The shards that hold some of the records that are asked for, and the first step
                of each that does.
            erased: Sorted ids of all that are left out.
        """
        tasks = list(self._tasks(first, erased))
        total, done = sum(each.epochs for each in tasks), 0
        for each in tasks:
            for item in self._trained(each, erased):
                yield replace(item, task=task, done=done + item.done, total=total)
            done += each.epochs
        for number in first:
            if self._shards[number].is_empty(erased):
                self.serving.pop(number, None)
        recipe = self._shards[0].recipe
        left = self._placement.records - len(erased)
        records = sum(each.shard.records_trained(each.first, erased) for each in tasks)
        return Cost(
            seconds=time.perf_counter() - started,
            steps=sum(each.shard.optimizer_steps(each.first) for each in tasks),
            records=records,
            share=records / (left * recipe.epochs * recipe.repeats),
        )

    def _tasks(self, first: Mapping[int, int], erased: NDArray[np.int64]) -> Iterator[_Task]:
        for number, shard in enumerate(self._shards):
            task = _Task(number=number, shard=shard, before=self._checkpoints.last(number, first))
            if task.epochs and not shard.is_empty(erased):
                yield task

    def _trained(self, task: _Task, erased: NDArray[np.int64]) -> Iterator[Event]:
        """Train a shard to its end, and ask its model from then on."""
        checkpoints = self._checkpoints
        start = checkpoints.read(task.before) if task.before else None
        for item in task.shard.training(start, task.first, erased):
            if isinstance(item, Event):
                yield item
                continue
            checkpoints.add(task.number, item.number, item.checkpoint)
            last = item.checkpoint
        self.serving[task.number] = task.shard.model(last)
