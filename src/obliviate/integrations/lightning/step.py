"""A step of a LightningModule: Lightning's own loop over the microbatches, with all hooks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torchmetrics import Metric

from obliviate.integrations.lightning.place import place_of
from obliviate.recipe.deal import key
from obliviate.recipe.recipe import invalid
from obliviate.training.batches import moved
from obliviate.training.determinism import seed_generators
from obliviate.training.step import Step, step_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lightning.pytorch import LightningModule

    from obliviate.recipe.recipe import Recipe
    from obliviate.training.batches import Fetched
    from obliviate.training.layout import Layout
    from obliviate.training.optimizer import ScheduledOptimizer

_BEGINNING = ("on_fit_start", "on_train_start", "on_train_epoch_start")
"""Hooks that are called before every block: what they set is put back between two."""

_ENDING = ("on_train_epoch_end", "on_train_end", "on_fit_end")
"""Hooks that are tried before a run is made, and never called again."""


class LightningStep(Step):
    """Makes the steps of a module."""

    def __init__(self, recipe: Recipe, module: LightningModule, layout: Layout) -> None:
        """Look at nothing yet.

        Args:
            recipe: Made of the module.
            module: What is trained; its trainer is a `TrainerView`.
            layout: Which record is trained on where.
        """
        super().__init__(recipe, module, None)
        self._module, self._layout, self._view = module, layout, module.trainer
        self._optimizer: ScheduledOptimizer | None = None
        self._is_trial = False
        self._counted: dict[str, int | float] = {}

    def make(
        self, optimizer: ScheduledOptimizer, block: int, batch: Sequence[Fetched]
    ) -> Tensor | None:
        """Make a step by Lightning's loop; see `Step.make`."""
        if optimizer is not self._optimizer:
            optimizer.clear_gradients()
            self._view.optimizers = list(optimizer.optimizers)
            self._begin(block, batch)
            self._optimizer = optimizer
        elif self._module.automatic_optimization:
            optimizer.clear_gradients()
        losses = []
        for each in batch:
            self._stand(block, each, is_last=each is batch[-1])
            output = self._view.train(moved(each.batch, self._recipe.device))
            if isinstance(loss := output.get("loss"), Tensor):
                losses.append(loss.detach().reshape(()))
        if self._averages is not None and (losses or not self._module.automatic_optimization):
            self._averages.follow()
        return torch.stack(losses).sum() if losses else None

    def _stand(self, block: int, fetched: Fetched, *, is_last: bool) -> None:
        """Be where a microbatch is."""
        microbatch = fetched.microbatch
        self._view.place = place_of(self._layout, block, microbatch, is_last=is_last)
        seed_generators(step_seed(self._recipe.seed, block, microbatch), self._recipe.device)
        torch.clear_autocast_cache()

    # Hooks around the steps

    @contextlib.contextmanager
    def on_trial(self) -> Iterator[None]:
        """Look closely at what hooks do meanwhile."""
        self._is_trial, self._optimizer = True, None
        try:
            yield
        finally:
            self._is_trial, self._optimizer = False, None

    def _begin(self, block: int, batch: Sequence[Fetched]) -> None:
        """Call the hooks that come before the first step of a block.

        Raises:
            InvalidRecipe: One of them trains, or does another thing when it is called again.
        """
        self._stand(block, batch[0], is_last=False)
        for hook in filter(self._has, _BEGINNING):
            seed_generators(key(self._recipe.seed, hook, block), self._recipe.device)
            self._call(hook)
            if self._is_trial:
                before = self._numbers()
                self._call(hook)
                if changed := _changed(before, self._numbers()):
                    raise invalid([f"{hook} changes {changed} each time: it is called per block"])
        self._counted = self._numbers()

    def end(self) -> None:
        """Try the hooks that come behind the last step.

        Raises:
            InvalidRecipe: One of them trains, or leaves something to what comes behind it; or a
                step does.
        """
        before, now = self._counted, self._numbers()
        counters = {name: value for name, value in before.items() if isinstance(value, int)}
        if changed := _changed(counters, now):
            raise invalid(
                [
                    f"a training step changes {changed}, which is in no checkpoint; make it a "
                    "buffer (register_buffer), or a plain function of self.global_step"
                ]
            )
        for hook in filter(self._has, _ENDING):
            before = self._numbers()
            self._call(hook)
            if changed := _changed(before, self._numbers()):
                raise invalid([f"{hook} changes {changed}: it is not called in replays"])

    def _has(self, hook: str) -> bool:
        return bool(is_overridden(hook, self._module))

    def _call(self, hook: str) -> None:
        tensors = [*self._module.parameters(), *self._module.buffers()]
        before = [each._version for each in tensors]
        self._view.call(hook)
        if [each._version for each in tensors] != before:
            raise invalid(
                [f"{hook} changes parameters or buffers, which only training steps may change"]
            )

    def _numbers(self) -> dict[str, int | float]:
        """Plain numbers of the modules, and those of the optimizers' groups."""
        numbers = {
            f"{place}.{name}" if place else name: value
            for place, module in self._module.named_modules()
            if not isinstance(module, Metric)
            for name, value in vars(module).items()
            if type(value) in {int, float} and not name.startswith("_")
        }
        for at, optimizer in enumerate(self._view.optimizers):
            for group, options in enumerate(optimizer.param_groups):
                numbers |= {
                    f"{name} of group {group} of optimizer {at}": value
                    for name, value in options.items()
                    if type(value) in {int, float}
                }
        return numbers


def _changed(before: Mapping[str, int | float], after: Mapping[str, int | float]) -> str:
    """The name of a number that is another one afterwards; empty if there is none."""
    return next((name for name, value in before.items() if after.get(name) != value), "")
