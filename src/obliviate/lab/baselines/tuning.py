"""Tuning: training goes on for a while, by a rule of its own, from a model that knows too much.

A baseline says what its steps are: batches, losses and weights. Here they are made, with a new one
of the recipe's optimizers, at its own learning rate or at the one that is given; the schedule is
over. Microbatches, precision and clipping are the recipe's. A pass over fewer records than training
takes at least (BatchNorm) is made in evaluation mode. Records are read in this process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from obliviate.errors import Diverged
from obliviate.events import Event
from obliviate.lab.baselines.single import Request, SingleModel, Work
from obliviate.recipe.deal import key, keyed_hash
from obliviate.recipe.user_code import named
from obliviate.training.batches import feed_of, moved
from obliviate.training.determinism import seed_generators
from obliviate.training.model import load_state
from obliviate.training.step import autocast_of
from obliviate.training.trainer import SECONDS_BETWEEN_EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from obliviate.events import Events

    Loss: TypeAlias = "Callable[[Part], Tensor]"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Records that go through the model together.

    Attributes:
        records: Their ids. Shape (n,).
        batch: They, collated, on the recipe's device.
    """

    records: NDArray[np.int64]
    batch: Any


@dataclass(frozen=True, kw_only=True)
class Term:
    """A part of a step's loss: the mean over a batch, times a weight.

    Attributes:
        records: The batch. Shape (n,).
        weight: Below 0 for what is made worse.
        loss: The mean over the records of a part, worked out with the live module; the recipe's if
            None.
    """

    records: NDArray[np.int64]
    weight: float = 1.0
    loss: Loss | None = None


class Tuning:
    """One request, as a baseline works on it.

    Attributes:
        model: The model; its live module is changed.
        request: Who is forgotten, who stays.
        work: What was gone through so far.
    """

    def __init__(
        self, model: SingleModel, request: Request, *, name: str, lr: float | None
    ) -> None:
        """Make a new optimizer.

        Args:
            model: What is tuned.
            request: Who is forgotten.
            name: Of the baseline.
            lr: The learning rate of all groups; the recipe's own if None.
        """
        self.model, self.request, self.work = model, request, Work()
        self._name, self._trainer = name, model.trainer
        self._key = key(model.trainer.recipe.seed, "baseline", name, request.number)
        self._lap, self._optimizer = 0, model.trainer.optimizer(None)
        recipe, threads = model.trainer.recipe, model.trainer.environment.facts["data threads"]
        # of its own: the trainer's enters the environment for every batch, which takes a while
        self._feed = feed_of(model.project.data, 0, int(threads), collate=recipe.collate)
        self._held: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        if lr is not None:
            self._set_rate(lr)

    def _set_rate(self, lr: float) -> None:
        for group in self._optimizer.groups:
            own = group["lr"]  # a tensor where a compiled optimizer asks for one
            group["lr"] = torch.full_like(own, lr) if isinstance(own, Tensor) else lr

    @property
    def module(self) -> nn.Module:
        """The live module."""
        return self._trainer.model

    def teacher(self) -> nn.Module:
        """Another module as the live one is now, in evaluation mode."""
        other = self._trainer.spare_module()
        load_state(other, self.model.state())
        return other.eval()

    def autocast(self) -> Any:
        """What the recipe's precision asks for, around a loss of one's own."""
        return autocast_of(self._trainer.recipe)

    # Which records, in which order

    def batches(self, records: NDArray[np.int64], lap: int) -> list[NDArray[np.int64]]:
        """Batches of some records, in an order of their own in every lap."""
        self._lap = lap
        return self._dealt(records, lap)

    def _dealt(self, records: NDArray[np.int64], lap: int) -> list[NDArray[np.int64]]:
        hashes = keyed_hash(records, key(self._key, "order", lap))
        batches = -(-len(records) // self._trainer.recipe.batch_size)
        return np.array_split(records[np.argsort(hashes, kind="stable")], batches)

    def cycled(self, records: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Batches of some records without an end, lap after lap."""
        for lap in count():
            yield from self._dealt(records, lap)

    # Steps

    def run(self, steps: Iterator[Sequence[Term]], epochs: int) -> Events[None]:
        """Make some steps, each when it is asked for: what stands between them is done in between.

        Args:
            steps: The terms of each step's loss, which are added up.
            epochs: How many laps they have.

        Raises:
            Diverged: A loss, or a weight in the end, is NaN or infinite.
            TrainingFailed: The dataset, the model, the loss or the optimizer raised.
        """
        is_over = False
        while not is_over:
            with self._trainer.environment.entered(), named(f"the baseline {self._name}"):
                is_over = self._spurt(steps)
            if not is_over:
                yield Event(task="forget", done=self._lap, total=epochs)
        self._check_finite()
        yield Event(task="forget", done=1, total=1)

    def _spurt(self, steps: Iterator[Sequence[Term]]) -> bool:
        """Make steps until some time has gone by; return whether all are made."""
        until = time.perf_counter() + SECONDS_BETWEEN_EVENTS
        while time.perf_counter() < until:
            terms = next(steps, None)
            if terms is None:
                return True
            self._optimizer.clear_gradients()
            self.backward(terms)
            self._step()
        return False

    def backward(self, terms: Iterable[Term], *, is_training: bool = True) -> None:
        """Add the gradients of some terms to those that the live module has.

        Args:
            terms: Which.
            is_training: Whether the module is in training mode.

        Raises:
            Diverged: A loss is NaN or infinite.
        """
        for at, term in enumerate(terms):
            seed, recipe = key(self._key, self.work.steps, at), self._trainer.recipe
            parts = [
                Part(records=few, batch=self._read(few, seed, number))
                for number, few in enumerate(np.array_split(term.records, recipe.microbatches))
                if len(few)
            ]
            items = [self._items(term, part) for part in parts]
            for number, part in enumerate(parts):
                if items[number]:
                    seed_generators(key(seed, number), recipe.device)
                    self.module.train(is_training and self._is_enough(part))
                    self._part(term, part, items[number] / sum(items))
            self._count(records=len(term.records))

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Keep every weight as it is now but for those in a mask.

        Args:
            masks: True where a weight may change, by the name of the parameter.
        """
        self._held = [
            (each, masks[name], each.detach().clone())
            for name, each in self.module.named_parameters()
            if name in masks
        ]

    def _read(self, records: NDArray[np.int64], seed: int, number: int) -> Any:
        with named(self._trainer.reader.what):
            return moved(self._feed.batch(records, seed, number), self._trainer.recipe.device)

    def _part(self, term: Term, part: Part, share: float) -> None:
        if term.loss is None:
            loss = self._trainer.forward(part.batch)
        else:
            with self.autocast():
                loss = term.loss(part)
        if loss is None:  # there is nothing to learn from it
            return
        is_scaled = self._optimizer.scaler.is_enabled()  # of an overflow, the scaler takes care
        if not is_scaled and not bool(loss.detach().isfinite().all()):
            raise self._diverged(f"the loss is {float(loss.detach()):g}")
        weight = term.weight * share
        self._optimizer.scaler.scale(loss * weight).backward()  # type: ignore[no-untyped-call]

    def _is_enough(self, part: Part) -> bool:
        return len(part.records) >= self._trainer.layout.smallest_batch

    def _step(self) -> None:
        for each, mask, _ in self._held:
            if each.grad is not None:
                each.grad.mul_(mask)
        self._optimizer.step()
        with torch.no_grad():
            for each, mask, before in self._held:  # an optimizer may decay what has no gradient
                each.copy_(torch.where(mask, each, before))
        self._count(steps=1)

    def _items(self, term: Term, part: Part) -> float:
        recipe = self._trainer.recipe
        if term.loss is None and recipe.weigh is not None:
            return recipe.items_of(part.batch)
        return len(part.records)

    def _count(self, *, steps: int = 0, records: int = 0) -> None:
        self.work = Work(steps=self.work.steps + steps, records=self.work.records + records)

    def _check_finite(self) -> None:
        for name, each in self.module.named_parameters():
            if not bool(each.detach().isfinite().all()):
                raise self._diverged(f"the weights {name} are no longer finite")

    def _diverged(self, what: str) -> Diverged:
        return Diverged(
            f"the baseline {self._name} diverged: after {self.work.steps} steps {what}",
            hint="lower its learning rate (lr=...), its epochs, or what is made worse weighs",
        )
