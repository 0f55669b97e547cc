"""One step of training: passes over the microbatches of a batch, and the optimizer's step."""

from __future__ import annotations

import contextlib
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from obliviate.recipe.deal import key
from obliviate.recipe.recipe import invalid
from obliviate.training.averages import Averages
from obliviate.training.batches import moved
from obliviate.training.buffers import Buffers
from obliviate.training.determinism import seed_generators
from obliviate.training.exchange import Exchange
from obliviate.training.gradients import Gradients, in_tree
from obliviate.training.optimizer import stilled_optimizers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer

    from obliviate.recipe.recipe import Recipe
    from obliviate.training.batches import Fetched
    from obliviate.training.layout import Microbatch
    from obliviate.training.optimizer import ScheduledOptimizer
    from obliviate.training.ranks import Ranks


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def step_seed(seed: int, block: int, microbatch: Microbatch) -> int:
    """What all generators are seeded with before a microbatch goes through the model."""
    numbers = (microbatch.number,) if microbatch.number else ()
    return key(seed, "step", block, microbatch.step, *numbers)


def by_step(fetched: Iterable[Fetched]) -> Iterator[list[Fetched]]:
    """The microbatches of each step, one step after the other."""
    for _, batch in groupby(fetched, lambda each: each.microbatch.step):
        yield list(batch)


def autocast_of(recipe: Recipe) -> contextlib.AbstractContextManager[Any]:
    """What a forward pass and its loss are worked out in, by a recipe's precision."""
    dtype = _DTYPES.get(recipe.precision)
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(recipe.device).type, dtype)


class Step:
    """Makes the steps of a recipe, with one model."""

    def __init__(
        self, recipe: Recipe, model: nn.Module, loss: Callable[[Any, Any], Tensor] | None
    ) -> None:
        """Look at nothing yet.

        Args:
            recipe: What a step does.
            model: What is trained.
            loss: The recipe's, or a copy of it.
        """
        self._recipe, self._model, self._loss = recipe, model, loss
        self._averages = None if recipe.ema is None else Averages(model, recipe.ema)
        self._base: Collection[str] = ()
        self._buffers: Buffers | None = None
        self._exchange: Exchange | None = None

    def leave_alone(self, base: Collection[str]) -> None:
        """Know which entries of the model nobody writes to."""
        if base != self._base:
            self._base, self._buffers = base, None

    def alone(self) -> None:
        """Make the next steps in this process."""
        self._exchange = None

    def share(self, ranks: Ranks) -> Exchange:
        """Make the next steps together with other ranks."""
        self._exchange = Exchange(ranks, self._recipe, self._model, self._kept_buffers())
        return self._exchange

    def forward(self, batch: Any, items: float | None = None) -> Tensor | None:
        """The loss of a microbatch; None where there is nothing to learn.

        Args:
            batch: It, on the recipe's device.
            items: How many the whole batch has; if None, it stands alone.
        """
        if self._recipe.is_manual:
            loss = self._manual(batch, stilled_optimizers(self._recipe, self._model))
            self._model.zero_grad()
            return loss
        with autocast_of(self._recipe):
            return self._forward(batch, items)

    def _forward(self, batch: Any, items: float | None) -> Tensor | None:
        if self._recipe.step is not None:
            loss: Tensor | None = self._recipe.loss_of_step(self._model, batch, items)
            return loss
        inputs, targets = batch
        assert self._loss is not None  # noqa: S101 - the recipe saw to it
        return self._loss(self._model(inputs), targets)

    def _manual(self, batch: Any, optimizers: Sequence[Optimizer]) -> Tensor | None:
        """The loss that is told by a step which goes backward and steps by itself."""
        loss = self._recipe.loss_of_step(self._model, batch, optimizers=optimizers)
        if loss is None:
            return None
        told = loss.detach() if isinstance(loss, Tensor) else torch.as_tensor(loss)
        _check_scalar(told)
        return told

    def make(
        self, optimizer: ScheduledOptimizer, block: int, batch: Sequence[Fetched]
    ) -> Tensor | None:
        """Make a step; return the batch's loss, None where there is nothing to learn.

        Args:
            optimizer: Its rates are set.
            block: Of the batch.
            batch: Its microbatches; those that erasures left empty are missing.
        """
        optimizer.clear_gradients()
        loss = self._learned(optimizer, block, batch)
        if loss is not None and self._averages is not None:
            self._averages.follow()
        return loss

    def _learned(
        self, optimizer: ScheduledOptimizer, block: int, batch: Sequence[Fetched]
    ) -> Tensor | None:
        if self._recipe.is_manual:
            return self._manual(self._entered(block, batch[0]), optimizer.optimizers)
        items = self._items(batch)
        total = sum(items.values())
        waiting = {each.microbatch.number: each for each in batch if items[each.microbatch.number]}

        def part(number: int) -> Tensor | None:
            return self._part(optimizer.scaler, block, waiting[number], items[number], total)

        if self._exchange is not None:
            optimizer.begin_scaling()
        loss = self._in_sequence(part, waiting) if self._is_plain else self._in_tree(part, waiting)
        if loss is not None:
            optimizer.step()
        return loss

    @property
    def _is_plain(self) -> bool:
        return self._recipe.microbatches == 1 or self._recipe.accumulation == "sequence"

    def _in_sequence(
        self, part: Callable[[int], Tensor | None], numbers: Iterable[int]
    ) -> Tensor | None:
        """Add one part after the other to the gradients that the parameters have."""
        losses = [loss for number in numbers if (loss := part(number)) is not None]
        return torch.stack(losses).sum() if len(losses) > 1 else next(iter(losses), None)

    def _in_tree(
        self, part: Callable[[int], Tensor | None], numbers: Iterable[int]
    ) -> Tensor | None:
        parameters, there = list(self._model.parameters()), set(numbers)
        buffers = self._kept_buffers()
        buffers.remember()

        def leaf(number: int) -> Gradients | None:
            if number not in there:
                return None
            buffers.put_back()
            loss = part(number)
            gradients = None
            if loss is not None:
                gradients = Gradients.taken(loss, parameters, buffers.left())
            for each in parameters:  # of a step that went backward by itself, and gave nothing
                each.grad = None
            return gradients

        summed = self._summed(leaf, min(there, default=0))
        if summed is None:
            buffers.put_back()
            return None
        summed.put(parameters)
        buffers.put(summed.left)
        return summed.loss

    def _summed(self, leaf: Callable[[int], Gradients | None], expected: int) -> Gradients | None:
        if self._exchange is None:
            return in_tree(range(self._recipe.microbatches), leaf)
        sums = [in_tree(node, leaf) for node in self._exchange.nodes]
        return self._exchange.summed(sums, expected)

    def _kept_buffers(self) -> Buffers:
        if self._buffers is None:
            losses = [self._loss] if isinstance(self._loss, nn.Module) else []
            self._buffers = Buffers([self._model, *losses], self._base)
        return self._buffers

    def _items(self, batch: Sequence[Fetched]) -> dict[int, float]:
        """How many items each microbatch of a batch has."""
        recipe, exchange = self._recipe, self._exchange
        if recipe.weigh is None:
            return {each.microbatch.number: len(each.microbatch.records) for each in batch}
        own = [each for each in batch if exchange is None or each.microbatch.number in exchange.own]
        items = {each.microbatch.number: recipe.items_of(each.batch) for each in own}
        return items if exchange is None else exchange.items(items)

    def _entered(self, block: int, fetched: Fetched) -> Any:
        """The batch on its device, and all that a pass over it begins with."""
        device = self._recipe.device
        batch = moved(fetched.batch, device)
        seed_generators(step_seed(self._recipe.seed, block, fetched.microbatch), device)
        # the weights were changed since the last step: what autocast keeps of them is stale
        torch.clear_autocast_cache()
        return batch

    def _part(
        self, scaler: GradScaler, block: int, fetched: Fetched, items: float, total: float
    ) -> Tensor | None:
        """Go through a microbatch, forward and backward; return its part of the batch's loss."""
        loss: Any = self.forward(self._entered(block, fetched), total)
        if loss is None:
            return None
        _check_loss(loss)
        part: Tensor = loss
        if items != total and not self._recipe.takes_items:
            # as loops divide by the number of microbatches, where all have as many items
            part = loss / (total / items)
        scaler.scale(part).backward()  # type: ignore[no-untyped-call]
        return part.detach().reshape(())


def _check_scalar(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        kind = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise invalid([f"the loss is not a scalar but has {kind}; take the batch's mean"])


def _check_loss(loss: Any) -> None:
    _check_scalar(loss)
    if not loss.requires_grad:
        raise invalid(
            [
                "the loss does not depend on any parameter that requires a gradient; do not "
                "detach it, nor work it out under no_grad; where there is nothing to learn "
                "from a batch, return None"
            ]
        )
