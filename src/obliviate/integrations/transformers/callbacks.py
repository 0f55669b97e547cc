"""Callbacks of a Transformers Trainer: what looks on is told of every block, as of logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerState
from transformers.trainer_callback import ProgressCallback

from obliviate.integrations.transformers.trainer import lent
from obliviate.recipe.recipe import invalid

if TYPE_CHECKING:
    from transformers import Trainer

    from obliviate.run.evaluation import Values
    from obliviate.training.layout import Layout


class Callbacks:
    """A Trainer's callbacks, but for bars: a run draws its own."""

    def __init__(self, trainer: Trainer, layout: Layout) -> None:
        """Tell them nothing yet.

        Args:
            trainer: Whose.
            layout: Of the run.
        """
        self._trainer, self._layout = trainer, layout
        self._blocks = layout.parts[0].blocks
        handler = trainer.callback_handler
        self._told = [each for each in handler.callbacks if not isinstance(each, ProgressCallback)]
        self._is_begun = False

    @property
    def every(self) -> int | None:
        """After how many blocks the Trainer would evaluate, about; None: after each epoch."""
        args, total = self._trainer.args, self._layout.total_steps(1)
        if args.eval_strategy.value != "steps":
            return None
        steps: float = args.eval_steps if args.eval_steps >= 1 else args.eval_steps * total
        return max(1, round(steps * self._layout.blocks / total))

    def log(self, block: int, values: Values) -> None:
        """Tell them of a block: its mean loss, and what was measured, as the logs of a step.

        Raises:
            InvalidRecipe: One of them asks for an end of training.
        """
        trainer = self._trainer
        with lent(trainer.callback_handler, callbacks=self._told):
            if not self._is_begun:
                self._begin()
            trainer.state.global_step = self._layout.first_step(block) + self._layout.steps(block)
            trainer.state.epoch = block / self._blocks
            measured = {name: value for name, value in values.items() if name != "loss"}
            if "loss" in values and self._is_due(block):
                trainer.log({"loss": values["loss"]})
            if measured:
                trainer.log({**measured})
                trainer.control = trainer.callback_handler.on_evaluate(*self._given(), measured)
        if trainer.control.should_training_stop:
            fault = "a callback asks for an end of training (should_training_stop)"
            raise invalid([f"{fault}; a run is trained to its end: give fewer num_train_epochs"])

    def _is_due(self, block: int) -> bool:
        strategy = self._trainer.args.logging_strategy.value
        return strategy == "steps" or (strategy == "epoch" and block % self._blocks == 0)

    def _begin(self) -> None:
        self._trainer.state = TrainerState(
            is_local_process_zero=True,
            is_world_process_zero=True,
            max_steps=self._layout.total_steps(1),
            num_train_epochs=int(self._trainer.args.num_train_epochs),
        )
        self._trainer.control = self._trainer.callback_handler.on_train_begin(*self._given())
        self._is_begun = True

    def end(self) -> None:
        """Tell them of the end, where something was trained."""
        self._trainer.state.global_step = self._layout.total_steps(1)
        if self._is_begun:
            with lent(self._trainer.callback_handler, callbacks=self._told):
                self._trainer.control = self._trainer.callback_handler.on_train_end(*self._given())

    def _given(self) -> tuple[Any, Any, Any]:
        return self._trainer.args, self._trainer.state, self._trainer.control
