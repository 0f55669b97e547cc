"""Transformers and PEFT: what a `Trainer` would train, trained so that people can be forgotten."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from obliviate.disk.paths import local_folder
from obliviate.errors import ExtraMissing, InvalidOption
from obliviate.events import watched
from obliviate.recipe.recipe import Recipe, invalid
from obliviate.run import fit, load
from obliviate.run.arguments import cut, data_length
from obliviate.run.make import is_made, new_layout
from obliviate.text import shown

try:
    from transformers import Trainer

    from obliviate.integrations.transformers.callbacks import Callbacks
    from obliviate.integrations.transformers.faults import trainer_faults
    from obliviate.integrations.transformers.scores import has_known_scores
    from obliviate.integrations.transformers.trainer import LentTrainer
except ModuleNotFoundError as error:
    raise ExtraMissing(
        f"the integration with Transformers needs {error.name}, which is not installed",
        hint="pip install 'obliviate[transformers]'",
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch.utils.data import Dataset

    from obliviate.events import Events
    from obliviate.recipe.subjects import Given
    from obliviate.run import Run


@watched
def erasable(
    trainer: Trainer,
    path: str | Path,
    *,
    subjects: Given | str | None = None,
    blocks: int = 100,
    reference: Dataset[Any] | None = None,
    keep: int | None = None,
    exclude: Iterable[int] = (),
) -> Events[Run]:
    """Train as `trainer.train()` would, so that people can be forgotten; or open what was trained.

    Everything is as the Trainer would do it, but for the order of the records, which is the run's
    own. Training that was interrupted is resumed, also by another process that makes the same
    Trainer again: the run's own first weights count then, whatever the new Trainer began with.
    Afterwards `trainer.model` is the trained model. Take `run.model` after anybody was forgotten.

    Args:
        trainer: A new Trainer, of the library's class or of one with a `compute_loss` of its own.
        path: The folder of the run; see `ob.fit`, also for what follows.
        subjects: Whose each record is; or the column of the training data that says so, which the
            model is not shown.
        blocks: How many blocks an epoch is cut into.
        reference: Records that are never trained on; they go through the Trainer's collator too.
        keep: Of how many of the last epochs every update is kept.
        exclude: Records to leave out.

    Returns:
        The run, trained to its end.

    Raises:
        InvalidRecipe: The Trainer is told to do what no replay could do again: all of it by name.
        InvalidOption: The Trainer has trained already, or there is no such column.
    """
    column = subjects if isinstance(subjects, str) else None
    borrowed = _borrowed(trainer, column)
    recipe, data, folder = _recipe(borrowed), trainer.train_dataset, local_folder(path)
    whose: Given | None = None if isinstance(subjects, str) else subjects
    if is_made(folder):  # whose the records are it knows, and some may not be there to be asked
        with load(folder, recipe, data) as begun:
            borrowed.begin_with(begun.chain().state(0))
            layout = begun.trainer.layout
    elif trainer.state.global_step:
        raise InvalidOption(
            f"the Trainer has made {trainer.state.global_step} steps already, and {folder} is no "
            "run",
            hint="its weights have seen the people who are to be forgotten: make a new Trainer "
            "with the model from before, or give the folder of the run that it trained",
        )
    else:
        whose = _column(data, column) if column is not None else whose
        records = data_length(data)
        layout = new_layout(recipe, records, *cut(blocks, whose, records))
    callbacks = Callbacks(trainer, layout)
    is_measured = trainer.args.eval_strategy.value != "no"
    run = yield from fit.events(
        recipe,
        data,
        folder,
        blocks=blocks,
        keep=keep,
        subjects=whose,
        reference=reference,
        exclude=exclude,
        evaluate=borrowed.evaluate if is_measured else None,
        every=callbacks.every,
        log=callbacks.log,
    )
    trainer.model = trainer.model_wrapped = run.model
    callbacks.end()
    return run


def recipe_of(trainer: Trainer, *, subjects: str | None = None) -> Recipe:
    """What a Trainer would do, as a recipe: for `ob.fit`, `ob.load` and `ob.Project`.

    Args:
        trainer: The Trainer.
        subjects: The column of the training data that says whose a record is, if there is one: no
            model is shown it.

    Raises:
        InvalidRecipe: It is told to do what no replay could do again: all of it by name.
    """
    return _recipe(_borrowed(trainer, subjects))


def _borrowed(trainer: Any, column: str | None) -> LentTrainer:
    if not isinstance(trainer, Trainer):
        raise InvalidOption(
            f"trainer is {shown(trainer)}, no Trainer of Transformers",
            hint="give Trainer(model=..., args=..., train_dataset=...)",
        )
    if faults := list(trainer_faults(trainer)):
        raise invalid(faults)
    return LentTrainer(trainer, hidden=column)


def _recipe(lent: LentTrainer) -> Recipe:
    args = lent.trainer.args
    recipe = Recipe(
        model=lent.model,
        optimizer=lent.optimizer,
        schedule=lent.schedule,
        step=partial(LentTrainer.step, lent),
        weigh=lent.weigh,
        collate=lent.collate,
        batch_size=args.train_batch_size * args.gradient_accumulation_steps,
        microbatches=args.gradient_accumulation_steps,
        accumulation="sequence",
        clip_norm=args.max_grad_norm if args.max_grad_norm > 0 else None,
        epochs=int(args.num_train_epochs),
        seed=args.seed,
        device=str(args.device),
        workers=args.dataloader_num_workers,
    )
    return replace(recipe, score=lent.score) if has_known_scores(lent.prototype) else recipe


def _column(data: Any, name: str) -> list[Any]:
    """A column of a dataset: whose each record is.

    Raises:
        InvalidOption: There is none.
    """
    names = getattr(data, "column_names", None)
    if names is not None and name in names:
        return list(data[name])
    records = (data[at] for at in range(len(data)))
    try:
        return [record[name] for record in records]
    except (KeyError, TypeError, IndexError) as error:
        raise InvalidOption(
            f"subjects is {name!r}, and not every record of the training data has such a column",
            hint="give the name of a column, or a list with one entry for each record",
        ) from error
