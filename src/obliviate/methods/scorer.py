"""Scorer: scores states on the records of an erasure, and on controls.

The records are read once, before anything is written, and kept in memory: nothing is read when a
state is scored. States are scored in evaluation mode, on a module of their own, so that a replay in
progress is not disturbed. A margin is taken only where the loss that was trained by is that of it.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from obliviate.errors import InvalidRecipe, TrainingFailed
from obliviate.methods.sample import (
    BATCHES_AT_ONCE,
    MOST_ERASED,
    NOTHING,
    Sample,
    chosen,
    control_ids,
    joined,
    merged,
    read,
    read_what_is_there,
)
from obliviate.methods.scores import batch_scores, is_cross_entropy, kind_of, loss_of
from obliviate.methods.slices import REMEDY, sliced
from obliviate.recipe.deal import key, keyed_hash
from obliviate.recipe.user_code import named
from obliviate.training.averages import served_state
from obliviate.training.determinism import seed_generators
from obliviate.training.model import load_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from obliviate.methods.scores import Kind
    from obliviate.recipe.recipe import Recipe
    from obliviate.states.update import State
    from obliviate.training.protocol import BlockTrainer

_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-2
_HALVES = (torch.float16, torch.bfloat16)


class Scorer:
    """Scores states on the erased records and on controls.

    Attributes:
        recipe: By which records are scored.
        erased: The records to erase, as far as they can be read and scored.
        controls: Retained records of the same blocks.
        missing: How many erased records could not be read or scored.
    """

    def __init__(
        self,
        trainer: BlockTrainer,
        state: State,
        erased: NDArray[np.int64],
        gone: NDArray[np.int64],
    ) -> None:
        """Read the records and find out how to score them.

        Args:
            trainer: Whose recipe, data and environment to use; its live model is left alone.
            state: A state to try it on.
            erased: The records of the request.
            gone: All erased records, those of the request among them; the others are never read.

        Raises:
            InvalidRecipe: The loss has no form for single records, and the recipe no score.
            TrainingFailed: A retained record cannot be read.
        """
        self.recipe, self._environment = with_own_loss(trainer.recipe), trainer.environment
        self._all: Sample | None = None  # until it is known which records can be scored
        self._model = trainer.spare_module()
        seed = trainer.recipe.seed
        self.controls = read(trainer, control_ids(trainer.layout, seed, erased, gone))
        order = erased[np.argsort(keyed_hash(erased, key(seed, "scored")))]
        self.erased = read_what_is_there(trainer, np.sort(order[:MOST_ERASED]))
        self._kind: Kind = self._kind_of(state)
        self._drop_what_cannot_be_scored(state)
        self.missing = min(len(erased), MOST_ERASED) - len(self.erased.ids)
        at_once = BATCHES_AT_ONCE * trainer.recipe.batch_size
        self._all = merged(joined([self.erased, self.controls]), at_once)

    @property
    def kind(self) -> Kind:
        """What a score is: "margin", minus a "loss" (of a "single" record at a time), "score"."""
        return self._kind

    def scores(self, state: State) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The scores of the erased records and of the controls under a state."""
        with self.loaded(state):
            scores = self.scored(self._all or joined([self.erased, self.controls]))
        return scores[: len(self.erased.ids)], scores[len(self.erased.ids) :]

    def erased_mean(self, state: State) -> float:
        """The mean score of the erased records under a state."""
        with self.loaded(state):
            return float(self.scored(self.erased).mean())

    @contextlib.contextmanager
    def loaded(self, state: State) -> Iterator[nn.Module]:
        """The model in a state, in evaluation mode and in the run's environment."""
        with self._environment.entered():
            load_state(self._model, served_state(state))
            self._model.eval()
            seed_generators(key(self.recipe.seed, "score"), self.recipe.device)
            yield self._model

    def scored(self, sample: Sample) -> NDArray[np.float64]:
        """The scores of a sample under the state that is loaded. Shape (n,)."""
        scored = [
            batch_scores(self._model, self.recipe, batch, size, self._kind)
            for batch, size in zip(sample.batches, sample.sizes, strict=True)
        ]
        return np.concatenate([np.empty(0), *scored])

    # Finding out how

    def _kind_of(self, state: State) -> Kind:
        recipe = self.recipe
        if recipe.score is not None:
            return "score"
        if not len(self.controls.ids):
            return "single"
        batch, size = self.controls.batches[0], self.controls.sizes[0]
        with self.loaded(state):
            kind = kind_of(self._model, recipe, batch, size)
            if kind != "single" and is_cross_entropy(recipe.loss):
                return kind  # whatever its weights and ignored targets do to a batch's mean
            losses = self._checked_losses(batch, size, kind)
            if kind == "margin":
                scores = torch.from_numpy(batch_scores(self._model, recipe, batch, size, kind))
                expected = nn.functional.softplus(-scores).numpy()
                is_own = np.allclose(expected, losses, rtol=1e-3, atol=1e-3)
                return "margin" if is_own else "loss"
            return kind

    def _checked_losses(self, batch: Any, size: int, kind: Kind) -> NDArray[np.float64]:
        """The losses of single records, if their mean is the loss of the batch, and of a half."""
        try:
            form: Kind = "single" if kind == "single" else "loss"
            losses = -batch_scores(self._model, self.recipe, batch, size, form)
        except TrainingFailed as error:
            message = f"the loss cannot be taken of a single record: {error.message}"
            raise InvalidRecipe(message, hint=REMEDY) from error
        is_half = any(each.dtype in _HALVES for each in self._model.parameters())
        tolerance = _HALF_TOLERANCE if is_half else _TOLERANCE
        for count in {size, (size + 1) // 2}:
            part = sliced(batch, slice(count), size)
            with named("scoring"):
                whole, mean = loss_of(self._model, self.recipe, part), float(losses[:count].mean())
            if not abs(mean - whole) <= tolerance * (1 + abs(whole)):
                raise InvalidRecipe(
                    f"the loss has no form for single records: of {count} records it is "
                    f"{whole:.6g}, their own losses have the mean {mean:.6g}",
                    hint=REMEDY,
                )
        return losses

    def _drop_what_cannot_be_scored(self, state: State) -> None:
        """Leave out records without a finite score, and erased ones that the model refuses."""
        try:
            erased, controls = self.scores(state)
        except TrainingFailed:
            kept = self.erased
            self.erased = NOTHING
            _, controls = self.scores(state)  # controls must be scored, whatever stands for S
            erased = np.full(len(kept.ids), np.nan)
            self.erased = kept
        self.erased = chosen(self.erased, np.isfinite(erased))
        self.controls = chosen(self.controls, np.isfinite(controls))


def with_own_loss(recipe: Recipe) -> Recipe:
    """The recipe with a copy of its loss on its device, where the loss is a module."""
    if not isinstance(recipe.loss, nn.Module):
        return recipe
    return replace(recipe, loss=copy.deepcopy(recipe.loss).to(recipe.device))
