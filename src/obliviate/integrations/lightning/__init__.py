"""Lightning: what a Trainer would train of a LightningModule, so that people can be forgotten."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch.utils.data import default_collate

from obliviate.disk.paths import local_folder
from obliviate.errors import ExtraMissing, InvalidOption
from obliviate.events import watched
from obliviate.recipe.recipe import invalid
from obliviate.recipe.user_code import named
from obliviate.run import fit, load
from obliviate.run.arguments import cut, data_length
from obliviate.run.make import is_made, new_layout
from obliviate.text import shown
from obliviate.training.model import load_state

try:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer
    from lightning.pytorch.utilities.model_helpers import is_overridden

    from obliviate.integrations.lightning.faults import (
        callback_faults,
        loader_faults,
        module_faults,
        scheduler_faults,
        trainer_faults,
    )
    from obliviate.integrations.lightning.plan import LightningPlan
    from obliviate.integrations.lightning.trainer import LightningRecipe
except ModuleNotFoundError as error:
    raise ExtraMissing(
        f"the integration with Lightning needs {error.name}, which is not installed",
        hint="pip install 'obliviate[lightning]'",
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch.utils.data import DataLoader, Dataset

    from obliviate.events import Events
    from obliviate.recipe.subjects import Given
    from obliviate.run import Run


@watched
def erasable(
    trainer: Trainer,
    module: LightningModule,
    path: str | Path,
    *,
    data: DataLoader[Any] | LightningDataModule | None = None,
    datamodule: LightningDataModule | None = None,
    subjects: Given | None = None,
    blocks: int = 100,
    reference: Dataset[Any] | None = None,
    keep: int | None = None,
    exclude: Iterable[int] = (),
) -> Events[Run]:
    """Train as `trainer.fit` would, so that people can be forgotten; or open what was trained.

    Every step is made by Lightning's own loop, with the module's hooks, over batches in the run's
    order. Training that was interrupted is resumed, also by another process that makes the same
    Trainer and module again: the run's own first weights count then. `module` stays as it is; take
    `run.model`, which is one like it.

    Args:
        trainer: Says for how many epochs, on what, in which precision.
        module: As it is before training.
        path: The folder of the run; see `ob.fit`, also for what follows.
        data: A DataLoader of the training records: its dataset, batch size, collate_fn and
            num_workers count. Or a LightningDataModule.
        datamodule: Where the data comes from otherwise; the module's own train_dataloader if
            neither is given.
        subjects: Whose each record is.
        blocks: How many blocks an epoch is cut into.
        reference: Records that are never trained on; they are collated as the others.
        keep: Of how many of the last epochs every update is kept.
        exclude: Records to leave out.

    Returns:
        The run, trained to its end.

    Raises:
        InvalidRecipe: What is asked for could be done again by no replay: all of it by name.
        InvalidOption: The Trainer has trained already.
    """
    recipe = recipe_of(
        trainer, module, data=data, datamodule=datamodule, subjects=subjects, blocks=blocks
    )
    plan, folder = recipe.plan, local_folder(path)
    if is_made(folder):
        with load(folder, recipe, plan.data) as begun:
            load_state(plan.prototype, begun.chain().state(0))
    elif trainer.global_step:
        raise InvalidOption(
            f"the Trainer has made {trainer.global_step} steps already, and {folder} is no run",
            hint="its module has seen the people who are to be forgotten: make both anew, or give "
            "the folder of the run that they trained",
        )
    with plan.telling():
        return (
            yield from fit.events(
                recipe,
                plan.data,
                folder,
                blocks=blocks,
                keep=keep,
                subjects=subjects,
                reference=reference,
                exclude=exclude,
            )
        )


def recipe_of(
    trainer: Trainer,
    module: LightningModule,
    *,
    data: DataLoader[Any] | LightningDataModule | None = None,
    datamodule: LightningDataModule | None = None,
    subjects: Given | None = None,
    blocks: int = 100,
) -> LightningRecipe:
    """What a Trainer would do with a module, as a recipe for `ob.fit` and `ob.load`.

    The places of the records count, since a module may ask how many steps there are: give the
    `subjects` and `blocks` that `fit` gets. The dataset is `recipe.plan.data`.

    Raises:
        InvalidRecipe: What is asked for could be done again by no replay: all of it by name.
    """
    _check_kinds(trainer, module)
    if data is not None and datamodule is not None:
        raise InvalidOption("data and datamodule are both given", hint="give one of them")
    if isinstance(data, LightningDataModule):
        data, datamodule = None, data
    plan = LightningPlan(trainer, module, datamodule)
    loader = _loader(plan) if data is None else data
    faults = [*trainer_faults(trainer), *module_faults(module, trainer), *loader_faults(loader)]
    for each in _callbacks(trainer, module):
        faults += callback_faults(each)
    if faults:
        raise invalid(faults)
    plan.data = loader.dataset
    recipe = _recipe(plan, loader)
    records = data_length(plan.data)
    count, people = cut(blocks, subjects, records)
    plan.use(new_layout(recipe, records, count, people))
    configs = plan.schedulers()
    if faults := list(scheduler_faults(configs, is_automatic=module.automatic_optimization)):
        raise invalid(faults)
    return replace(recipe, schedule=plan.schedule) if configs else recipe


def _check_kinds(trainer: Any, module: Any) -> None:
    for name, value, kind in (
        ("trainer", trainer, Trainer),
        ("module", module, LightningModule),
    ):
        if not isinstance(value, kind):
            raise InvalidOption(
                f"{name} is {shown(value)}, no {kind.__name__} of Lightning",
                hint="give those of `import lightning` (or lightning.pytorch), not compiled and "
                "not wrapped",
            )


def _recipe(plan: LightningPlan, loader: DataLoader[Any]) -> LightningRecipe:
    is_automatic = plan.prototype.automatic_optimization
    return LightningRecipe(
        plan=plan,
        model=plan.model,
        optimizer=plan.optimizer,
        step=plan.loss if is_automatic else plan.manual_step,
        batch_size=int(loader.batch_size or 1) * plan.microbatches,
        microbatches=plan.microbatches,
        accumulation="sequence",
        collate=None if loader.collate_fn is default_collate else loader.collate_fn,
        epochs=plan.epochs,
        seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),
        device=plan.device,
        workers=loader.num_workers,
    )


def _loader(plan: LightningPlan) -> Any:
    """The DataLoader of the data module, or of the module itself; None where there is none."""
    with named("the training data"):
        if plan.datamodule is not None:
            plan.datamodule.trainer = plan.trainer
            plan.datamodule.prepare_data()
            plan.datamodule.setup("fit")
            return plan.datamodule.train_dataloader()
        module = plan.prototype
        if not is_overridden("train_dataloader", module):
            return None
        module.prepare_data()
        return plan.model().train_dataloader()


def _callbacks(trainer: Trainer, module: LightningModule) -> Iterator[Any]:
    """The Trainer's callbacks, and the module's."""
    yield from trainer.callbacks
    own = module.configure_callbacks()
    yield from own if isinstance(own, list | tuple) else [own]
