"""Evaluation: what a user measures while a run is trained, and whether training ends early.

Nothing of it bears on the bits of training: a module of its own is measured, in evaluation mode,
and all generators are seeded before the next step. What is measured is kept beside its block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from obliviate.errors import TrainingFailed
from obliviate.options import noted, whole
from obliviate.recipe.deal import key
from obliviate.recipe.recipe import invalid
from obliviate.recipe.user_code import named
from obliviate.text import shown
from obliviate.training.averages import served_state
from obliviate.training.determinism import seed_generators
from obliviate.training.model import load_state

if TYPE_CHECKING:
    from torch import nn

    from obliviate.ledger import Ledger
    from obliviate.recipe.recipe import Recipe
    from obliviate.states.update import State
    from obliviate.training.protocol import BlockTrainer, Trained

Values = Mapping[str, float]
Evaluate = Callable[["nn.Module"], Mapping[str, Any]]
Log = Callable[[int, Values], None]
Stop = Callable[[Mapping[int, Values]], bool]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured, and who is told.

    Attributes:
        evaluate: Measures a model, which is in evaluation mode: numbers by name.
        every: After so many blocks, and at the end; after each epoch if None.
        log: Told of every block: its number, its mean training loss as "loss", and what was
            measured.
        stop: Asked after each epoch, by all that was measured so far, by block: whether training
            ends there.
    """

    evaluate: Evaluate | None = None
    every: int | None = None
    log: Log | None = None
    stop: Stop | None = None

    def check(self, recipe: Recipe, keep: int | None, disk_budget: Any) -> None:
        """See that it can be used.

        Raises:
            InvalidRecipe: It cannot; every fault in one message.
        """
        faults = [
            f"{name} is {shown(given)}; it must be callable or None"
            for name in ("evaluate", "log", "stop")
            if (given := getattr(self, name)) is not None and not callable(given)
        ]
        if self.every is not None:
            with noted(faults):
                whole(self.every, "every", least=1, hint="a number of blocks, or None")
        if self.evaluate is None:
            faults += [
                f"{name} needs evaluate, (model) -> numbers by name"
                for name in ("every", "stop")
                if getattr(self, name) is not None
            ]
        if self.stop is not None:
            faults += _stop_faults(recipe, keep, disk_budget)
        if faults:
            raise invalid(faults)

    def measured(
        self, trainer: BlockTrainer, module: nn.Module, state: State, block: int
    ) -> dict[str, float]:
        """What is measured of a state, on a module that is nobody else's.

        Raises:
            TrainingFailed: It raised, or gave something else than numbers by name.
        """
        recipe = trainer.recipe
        with trainer.environment.entered(), torch.no_grad(), named(f"block {block}: evaluate"):
            load_state(module, served_state(state))
            seed_generators(key(recipe.seed, "evaluate", block), recipe.device)
            assert self.evaluate is not None  # noqa: S101 - whoever calls has seen to it
            return _numbers(self.evaluate(module.eval()))

    def try_first(self, trainer: BlockTrainer) -> None:
        """Measure the initial state, before hours are spent.

        Raises:
            TrainingFailed: See `measured`.
        """
        if self.evaluate is not None:
            self.measured(trainer, trainer.spare_module(), trainer.initial().model, 0)


class Evaluator:
    """Measures the blocks of a run's first part, as they are trained."""

    def __init__(self, evaluation: Evaluation, trainer: BlockTrainer, ledger: Ledger) -> None:
        """Know what was measured so far."""
        self._evaluation, self._trainer = evaluation, trainer
        self._part = trainer.layout.parts[0]
        self._module = None if evaluation.evaluate is None else trainer.spare_module()
        self._history = {
            entry.block: entry.evaluation
            for entry in ledger.chain.entries()
            if entry.evaluation is not None
        }

    def measured(self, trained: Trained) -> Values | None:
        """What is measured of a block; None where nothing is.

        Raises:
            TrainingFailed: See `Evaluation.measured`; or `log` raised.
        """
        block, evaluation, values = trained.block, self._evaluation, None
        if self._module is not None and self._is_due(block):
            state = trained.checkpoint.model
            values = evaluation.measured(self._trainer, self._module, state, block)
            self._history[block] = values
        if evaluation.log is not None:
            loss = {} if trained.loss is None else {"loss": trained.loss}
            with named(f"block {block}: log"):
                evaluation.log(block, loss | dict(values or {}))
        return values

    def is_over(self, block: int) -> bool:
        """Whether training ends early, behind a block.

        Raises:
            TrainingFailed: `stop` raised.
        """
        stop = self._evaluation.stop
        if stop is None or not block or block % self._part.blocks or block >= self._part.length:
            return False
        with named(f"block {block}: stop"):
            return bool(stop(dict(self._history)))

    def _is_due(self, block: int) -> bool:
        every = self._evaluation.every or self._part.blocks
        is_at_an_end = self._evaluation.stop is not None and block % self._part.blocks == 0
        return block % every == 0 or block == self._part.length or is_at_an_end


def _stop_faults(recipe: Recipe, keep: int | None, disk_budget: Any) -> list[str]:
    faults = []
    if keep is not None or disk_budget is not None:
        name = "keep" if keep is not None else "disk_budget"
        faults.append(
            f"{name} goes by the last epochs, and stop leaves open which those are; give one of "
            "them (with stop, all epochs are kept in full)"
        )
    if recipe.epochs == 1:
        faults.append("stop is asked after each epoch but the last, and there is one epoch")
    return faults


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, Mapping):
        raise _not_numbers(f"gave {shown(values)}")
    numbers = {}
    for name, value in values.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise _not_numbers(f"gave {shown(value)} for {shown(name)}") from error
        if not isinstance(name, str) or isinstance(value, str | bytes):
            raise _not_numbers(f"gave {shown(value)} for {shown(name)}")
    return numbers


def _not_numbers(what: str) -> TrainingFailed:
    return TrainingFailed(
        f"evaluate {what}", hint='it must give numbers by name, such as {"accuracy": 0.9}'
    )
