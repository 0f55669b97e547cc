"""What a Lightning Trainer would do with a module: models, optimizers and rates, by its words."""

from __future__ import annotations

import contextlib
import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lightning.pytorch.core.optimizer import _init_optimizers_and_lr_schedulers
from lightning.pytorch.loggers.logger import DummyLogger

from obliviate.integrations.lightning.place import Cadence, Place, epoch_ends
from obliviate.integrations.lightning.view import TrainerView
from obliviate.recipe.recipe import invalid
from obliviate.recipe.user_code import named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lightning.pytorch import LightningDataModule, LightningModule, Trainer
    from torch.optim import Optimizer

    from obliviate.training.layout import Layout


class LightningPlan:
    """What a recipe is made of, by a Trainer, a module and its data.

    Attributes:
        trainer: The Trainer; nothing of it is changed.
        prototype: The module that every model of the run begins as a copy of.
        datamodule: Where the data comes from, and what is done with batches; None where there is
            none.
        data: The training records.
    """

    data: Any

    def __init__(
        self, trainer: Trainer, module: LightningModule, datamodule: LightningDataModule | None
    ) -> None:
        """Copy the module as it is."""
        self.trainer, self.datamodule = trainer, datamodule
        known = {id(each): each for each in (module._trainer, datamodule) if each is not None}
        self.prototype = copy.deepcopy(module, known)
        self.prototype.trainer = None
        self._layout: Layout | None = None
        self._total_steps: int | None = None
        self._configured: tuple[LightningModule, list[Optimizer], list[Any]] | None = None
        self._is_telling, self._told_step = False, -1

    # What the Trainer says

    @property
    def epochs(self) -> int:
        """How many epochs there are."""
        return int(self.trainer.max_epochs or 0)

    @property
    def microbatches(self) -> int:
        """How many of Lightning's batches make a step."""
        return int(self.trainer.accumulate_grad_batches)

    @property
    def device(self) -> str:
        """Where is trained."""
        return str(self.trainer.strategy.root_device)

    def words(self) -> str:
        """What bits depend on and no other part of a recipe says."""
        trainer, kind = self.trainer, "automatic"
        if not self.prototype.automatic_optimization:
            kind = "manual"
        clip = f"{trainer.gradient_clip_val} {trainer.gradient_clip_algorithm or 'norm'}"
        return f"{kind}, precision {trainer.precision_plugin.precision}, clip {clip}"

    # What a recipe asks for

    def model(self) -> LightningModule:
        """A new module, as it is before training."""
        module = copy.deepcopy(self.prototype)
        view = module.trainer = TrainerView(self, module)
        view.call("setup", stage="fit")
        view.call("configure_model")
        return module

    def optimizer(self, model: LightningModule) -> Any:
        """What `configure_optimizers` makes, one optimizer or several."""
        with named("configure_optimizers"):
            optimizers, configs = _init_optimizers_and_lr_schedulers(model)
        self._configured = model, optimizers, configs
        return optimizers[0] if len(optimizers) == 1 else tuple(optimizers)

    def schedule(self, optimizer: Optimizer, total_steps: int) -> Cadence:
        """The schedulers that `configure_optimizers` made with the last optimizer.

        Args:
            optimizer: Whose groups to move.
            total_steps: Of the first training, or of an extension: which has them anew.
        """
        assert self._configured is not None  # noqa: S101 - an optimizer was made
        model, _, configs = self._configured
        if total_steps != self.total_steps:
            self._total_steps = total_steps
            self.optimizer(model)
            self._total_steps, configs = None, self._configured[2]
        return Cadence(configs, optimizer, self._ends(total_steps), self.microbatches)

    def loss(self, model: LightningModule, batch: Any) -> Any:
        """The loss of a batch, wherever in training it may stand; see `TrainerView.loss`."""
        model.trainer.place = Place()
        return model.trainer.loss(batch)

    def manual_step(
        self, model: LightningModule, batch: Any, optimizers: Sequence[Optimizer]
    ) -> Any:
        """What a `training_step` tells that goes backward by itself, with some optimizers."""
        view = model.trainer
        before, view.optimizers, view.place = view.optimizers, list(optimizers), Place()
        try:
            return view.told(batch)
        finally:
            view.optimizers = before

    def schedulers(self) -> list[Any]:
        """What Lightning makes of the schedulers of a new model, to look at."""
        self.optimizer(self.model())
        assert self._configured is not None  # noqa: S101 - it was just made
        return self._configured[2]

    # Where everything stands

    def use(self, layout: Layout) -> None:
        """Go by a layout from now on."""
        self._layout = layout

    @property
    def layout(self) -> Layout:
        """Which record is trained on where."""
        assert self._layout is not None  # noqa: S101 - whoever makes a plan gives it one
        return self._layout

    @property
    def total_steps(self) -> int:
        """How many steps the training has."""
        return self._total_steps or self.layout.total_steps(1)

    def _ends(self, total_steps: int) -> list[int]:
        for part in self.layout.parts:
            if self.layout.total_steps(part.first_block) == total_steps:
                return epoch_ends(self.layout, part.first_block)
        raise invalid([f"no part of the run has {total_steps} steps"])

    # Loggers

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Tell the Trainer's loggers meanwhile."""
        self._is_telling = True
        try:
            yield
        finally:
            self._is_telling = False
            for each in self.trainer.loggers:
                each.save()

    @cached_property
    def _silent(self) -> list[Any]:
        return [DummyLogger() for _ in self.trainer.loggers]

    @property
    def loggers(self) -> list[Any]:
        """The Trainer's while the run is trained; later on as many that keep nothing."""
        return self.trainer.loggers if self._is_telling else self._silent

    def tell(self, logged: Mapping[str, Any], step: int) -> None:
        """Tell the loggers what was logged at a step, once and as often as the Trainer says."""
        every = self.trainer.log_every_n_steps
        if not (self._is_telling and every and logged) or step <= self._told_step:
            return
        self._told_step = step
        if (step + 1) % every == 0:
            values = {name: float(value) for name, value in logged.items()}
            for each in self.trainer.loggers:
                each.log_metrics(values, step=step)
