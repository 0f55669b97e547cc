"""What a LightningModule sees as its trainer while a run trains it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.data_connector import _DataHookSelector
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from obliviate.integrations.lightning.manual import ManualLoop
from obliviate.integrations.lightning.place import Place
from obliviate.recipe.recipe import invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import LightningModule
    from torch.optim import Optimizer

    from obliviate.integrations.lightning.plan import LightningPlan

_SKIP = -1


class TrainerView:
    """A trainer that knows where training is, and has one module to train by Lightning's own loops.

    What it is asked for it gives truly or refuses by name: a replay must see the same.

    Attributes:
        place: Of the microbatch that is trained on.
        logged: What `self.log` was told of it.
    """

    barebones = sanity_checking = validating = testing = predicting = received_sigterm = False
    training = is_global_zero = True
    world_size = num_devices = num_nodes = 1
    global_rank = local_rank = node_rank = 0
    max_steps = -1
    progress_bar_callback = None

    def __init__(self, plan: LightningPlan, module: LightningModule) -> None:
        """Stand in for a Trainer beside a module.

        Args:
            plan: What there is to know of the training.
            module: A module of the run.
        """
        self._plan, self.lightning_module, self.place = plan, module, Place()
        self.strategy = SingleDeviceStrategy(
            device=plan.device, precision_plugin=plan.trainer.precision_plugin
        )
        self.strategy.connect(module)
        self.profiler = PassThroughProfiler()
        self.callbacks: list[Any] = []
        self.lr_scheduler_configs: list[Any] = []
        self.fit_loop = SimpleNamespace(_should_accumulate=lambda: not self.place.is_last)
        self.logged: dict[str, Any] = {}
        self._results = SimpleNamespace(log=self._log)
        self._logger_connector = SimpleNamespace(should_reset_tensors=lambda _: False)
        self._accelerator_connector = SimpleNamespace(is_distributed=False)
        selector = _DataHookSelector(module, plan.datamodule)
        self._data_connector = SimpleNamespace(_datahook_selector=selector)
        self._automatic = _AutomaticOptimization(self)
        self._manual = ManualLoop(self)

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Self:
        """There is one beside each module, which holds nothing of a model's own."""
        return self

    def __getattr__(self, name: str) -> Any:
        """Refuse whatever a replay could not give again."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise invalid([f"the module asks for trainer.{name}, which no replay could give it again"])

    @property
    def current_epoch(self) -> int:
        """The number of the epoch, from 0."""
        return self.place.epoch

    @property
    def global_step(self) -> int:
        """How many steps the optimizer has made, those of batches that erasures left empty too."""
        if not self.lightning_module.automatic_optimization:
            raise invalid(
                [
                    "the module asks for trainer.global_step with manual optimization, where it "
                    "counts calls of step that a replay does not make; take batch_idx and "
                    "current_epoch"
                ]
            )
        return self.place.step

    @property
    def max_epochs(self) -> int:
        """How many epochs there are."""
        return self._plan.epochs

    @property
    def estimated_stepping_batches(self) -> int:
        """How many steps the whole training has."""
        return self._plan.total_steps

    @property
    def num_training_batches(self) -> int:
        """How many batches the epoch has."""
        return self.place.batches

    @property
    def is_last_batch(self) -> bool:
        """Whether the epoch ends with this batch."""
        return self.place.batch + 1 == self.place.batches

    @property
    def should_stop(self) -> bool:
        """Training goes on to its end."""
        return False

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        if value:
            raise invalid(["the module sets trainer.should_stop: a run is trained to its end"])

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those that train."""
        return list(self.strategy.optimizers)

    @optimizers.setter
    def optimizers(self, optimizers: list[Optimizer]) -> None:
        self.strategy.optimizers = optimizers

    @property
    def precision_plugin(self) -> Any:
        """The Trainer's."""
        return self.strategy.precision_plugin

    @property
    def accumulate_grad_batches(self) -> int:
        """How many batches make a step."""
        return self._plan.microbatches

    @property
    def gradient_clip_val(self) -> Any:
        """What gradients are clipped to."""
        return self._plan.trainer.gradient_clip_val

    @property
    def gradient_clip_algorithm(self) -> Any:
        """By what they are clipped."""
        return self._plan.trainer.gradient_clip_algorithm

    @property
    def datamodule(self) -> Any:
        """The Trainer's."""
        return self._plan.datamodule

    @property
    def default_root_dir(self) -> str:
        """The Trainer's."""
        return str(self._plan.trainer.default_root_dir)

    @property
    def logger(self) -> Any:
        """The Trainer's first logger, while the run is trained; later on one that keeps nothing."""
        return next(iter(self.loggers), None)

    @property
    def loggers(self) -> list[Any]:
        """See `logger`."""
        return self._plan.loggers

    def call(self, hook: str, *args: Any, **options: Any) -> Any:
        """Call a hook of the module."""
        return call._call_lightning_module_hook(self, hook, *args, **options)

    def train(self, batch: Any) -> dict[str, Any]:
        """Go through a batch as Lightning does, with all hooks; give what came of it.

        Args:
            batch: As it was collated.
        """
        batch, place = self._transferred(batch), self.place
        self.logged.clear()
        if self.call("on_train_batch_start", batch, place.batch) == _SKIP:
            raise invalid(
                ["on_train_batch_start gave -1: every epoch goes over all records; return None"]
            )
        output: dict[str, Any]
        if self.lightning_module.automatic_optimization:
            optimizer = self.strategy.optimizers[0]
            output = self._automatic.run(optimizer, place.batch, self._arguments(batch))
        else:
            output = self._manual.run(self._arguments(batch))
        if place.is_last:
            self.place = replace(place, step=place.step + 1)
        self.call("on_train_batch_end", output, batch, place.batch)
        if place.is_last:
            self._plan.tell(self.logged, place.step)
        return output

    def loss(self, batch: Any) -> Any:
        """The loss of a batch, by `training_step`; None where there is nothing to learn."""
        arguments = self._arguments(self._transferred(batch)).values()
        output = call._call_strategy_hook(self, "training_step", *arguments)
        return output["loss"] if isinstance(output, dict) else output

    def told(self, batch: Any) -> Any:
        """What `training_step` gives for its loss where it makes its own steps."""
        return self._manual.run(self._arguments(self._transferred(batch))).get("loss")

    def _transferred(self, batch: Any) -> Any:
        batch = self.precision_plugin.convert_input(batch)
        batch = self.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
        return call._call_strategy_hook(self, "batch_to_device", batch, dataloader_idx=0)

    def _arguments(self, batch: Any) -> OrderedDict[str, Any]:
        arguments = OrderedDict(batch=batch)
        step = self.lightning_module.training_step
        if is_param_in_hook_signature(step, "batch_idx", min_args=2):
            arguments["batch_idx"] = self.place.batch
        return arguments

    def _log(self, hook: str, name: str, value: Any, **options: Any) -> None:  # noqa: ARG002
        """Keep what is told of a step."""
        value = getattr(value, "_forward_cache", value)  # of a metric of torchmetrics
        if options["on_step"] and options["logger"] and value is not None:
            self.logged[f"{name}_step" if options["on_epoch"] else name] = value
