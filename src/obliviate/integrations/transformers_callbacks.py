"""Callbacks of a Transformers Trainer: what looks on is told of every block, as of logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerState
from transformers.trainer_callback import ProgressCallback

from obliviate.integrations.transformers_trainer import lent
from obliviate.recipe.recipe import invalid

if TYPE_CHECKING:
    from transformers import Trainer

    from obliviate.events import Events
    from obliviate.run import Run
    from obliviate.training.layout import Layout


def telling(trainer: Trainer, layout: Layout, blocks: int, events: Events[Run]) -> Events[Run]:
    """Pass the events of a training on, and tell a Trainer's callbacks of it.

    Each block that is trained on is a log of its mean loss: TensorBoard, MLflow and the like draw
    it. At the end `trainer.model` is the trained model, which is evaluated where the arguments ask
    for any evaluation.

    Args:
        trainer: Whose callbacks.
        layout: Of the run.
        blocks: How many blocks an epoch has.
        events: Of `ob.fit`.
    """
    is_begun = False
    with lent(trainer.callback_handler, callbacks=_told(trainer)):
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                run: Run = stop.value
                break
            if event.task == "fit" and event.block is not None and event.done == event.block:
                if not is_begun:
                    _begin(trainer, layout)
                    is_begun = True
                _log(trainer, layout, blocks, event.block, event.loss)
            yield event
        trainer.model = trainer.model_wrapped = run.model
        trainer.state.global_step = layout.total_steps(1)
        if is_begun:
            _end(trainer)
    return run


def _told(trainer: Trainer) -> list[Any]:
    """The callbacks, but for bars: a run draws its own."""
    known = trainer.callback_handler.callbacks
    return [each for each in known if not isinstance(each, ProgressCallback)]


def _begin(trainer: Trainer, layout: Layout) -> None:
    trainer.state = TrainerState(
        is_local_process_zero=True,
        is_world_process_zero=True,
        max_steps=layout.total_steps(1),
        num_train_epochs=int(trainer.args.num_train_epochs),
    )
    trainer.control = trainer.callback_handler.on_train_begin(
        trainer.args, trainer.state, trainer.control
    )


def _log(trainer: Trainer, layout: Layout, blocks: int, block: int, loss: float | None) -> None:
    trainer.state.global_step = layout.first_step(block) + layout.steps(block)
    trainer.state.epoch = block / blocks
    is_due = {"no": False, "epoch": block % blocks == 0}
    if loss is not None and is_due.get(trainer.args.logging_strategy.value, True):
        trainer.log({"loss": loss})
    if trainer.control.should_training_stop:
        raise invalid(
            [
                "a callback asks for an end of training (should_training_stop); a run is "
                "trained to its end: give fewer num_train_epochs"
            ]
        )


def _end(trainer: Trainer) -> None:
    if trainer.args.eval_strategy.value != "no":
        trainer.evaluate()
    trainer.control = trainer.callback_handler.on_train_end(
        trainer.args, trainer.state, trainer.control
    )
