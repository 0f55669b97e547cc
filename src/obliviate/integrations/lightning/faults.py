"""What a Lightning script asks for and no replay could do again, each by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import callbacks, strategies
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import Callback, LightningModule, Trainer

_DEVICES = {"cpu", "cuda"}
_TRAINING_HOOKS = (
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_train_end",
)
"""What a callback could change a training by."""

_OF_NO_ACCOUNT = (
    callbacks.BasePredictionWriter,
    callbacks.Checkpoint,
    callbacks.DeviceStatsMonitor,
    callbacks.LearningRateMonitor,
    callbacks.ModelSummary,
    callbacks.ProgressBar,
    callbacks.ThroughputMonitor,
)
"""Callbacks that watch a training and leave it as it is."""

_CONTROLLING = {
    callbacks.EarlyStopping: "it ends training by a metric",
    callbacks.WeightAveraging: "it averages weights outside the module",
    callbacks.StochasticWeightAveraging: "it averages weights outside the module",
    callbacks.GradientAccumulationScheduler: "batches have one number of microbatches throughout",
    callbacks.BaseFinetuning: "it thaws parameters on the way; give them a parameter group",
    callbacks.BatchSizeFinder: "it tries batch sizes; say which",
    callbacks.LearningRateFinder: "it tries learning rates; say which",
    callbacks.ModelPruning: "it cuts weights off on the way",
    callbacks.Timer: "it ends training by the clock",
}
_DATA = "give a DataLoader, a LightningDataModule or train_dataloader in the module"


def trainer_faults(trainer: Trainer) -> Iterator[str]:
    """What a Trainer was told that cannot be carried over, its callbacks apart."""
    strategy = trainer.strategy
    if type(strategy) is not strategies.SingleDeviceStrategy:
        yield (
            f"strategy {type(strategy).__name__} on {trainer.num_devices} devices: a run trains on "
            "one; take devices=1"
        )
    elif strategy.root_device.type not in _DEVICES:
        yield f"accelerator {strategy.root_device.type!r}: a run trains on the CPU or on CUDA"
    plugin = trainer.precision_plugin
    if not is_known_precision(plugin):
        yield f'precision {plugin.precision!r}: take "32-true" or "bf16-mixed"'
    if trainer.max_epochs in {None, -1}:
        yield f"max_epochs is {trainer.max_epochs}: say how many epochs"
    if trainer.fast_dev_run:
        yield "fast_dev_run ends training after a few batches"
    elif trainer.max_steps != -1:
        yield f"max_steps={trainer.max_steps} ends training within an epoch; say max_epochs"
    for name, usual in (
        ("limit_train_batches", 1.0),
        ("overfit_batches", 0.0),
        ("reload_dataloaders_every_n_epochs", 0),
    ):
        value = getattr(trainer, name)
        if value != usual and not trainer.fast_dev_run:
            yield f"{name}={value}: every epoch goes over all records of one dataset"


def is_known_precision(plugin: Any) -> bool:
    """Whether it needs nothing carried from step to step, nor other weights."""
    if type(plugin) is MixedPrecision:
        return bool(plugin.precision == "bf16-mixed")
    return type(plugin) is Precision


def callback_faults(callback: Callback) -> Iterator[str]:
    """What a callback does to a training."""
    name = type(callback).__name__
    reasons = [why for kind, why in _CONTROLLING.items() if isinstance(callback, kind)]
    if isinstance(callback, callbacks.Timer) and callback._duration is None:
        return
    if reasons:
        yield f"callback {name}: {reasons[0]}"
    elif not isinstance(callback, _OF_NO_ACCOUNT):
        hooks = [each for each in _TRAINING_HOOKS if is_overridden(each, callback)]
        if hooks:
            yield (
                f"callback {name} ({', '.join(hooks)}): callbacks are not called; what it does "
                "belongs in the module's own hooks"
            )


def module_faults(module: LightningModule, trainer: Trainer) -> Iterator[str]:
    """What a module does that cannot be carried over, as far as it can be seen without running."""
    for name in ("training_step", "configure_optimizers"):
        if not is_overridden(name, module):
            yield f"{type(module).__name__} has no {name}"
    for name, instead in (
        ("lr_scheduler_step", "a schedule depends on the number of the step alone"),
        ("configure_sharded_model", "take configure_model"),
    ):
        if is_overridden(name, module):
            yield f"{type(module).__name__} has a {name} of its own: {instead}"
    for name in ("dataloader_iter", "optimizer_idx"):
        if is_param_in_hook_signature(module.training_step, name, explicit=True):
            yield f"training_step takes {name}; it is given a batch, and its number where it asks"
    if not module.automatic_optimization:
        for name, usual in (("gradient_clip_val", None), ("accumulate_grad_batches", 1)):
            value = getattr(trainer, name)
            if value not in {usual, 0}:
                yield f"{name}={value} with manual optimization: Lightning has no such thing"


def loader_faults(loader: Any) -> Iterator[str]:
    """What in a source of batches is not a dataset, a batch size and a way to collate."""
    if not isinstance(loader, DataLoader):
        what = "missing" if loader is None else f"a {type(loader).__name__}"
        yield f"the training data is {what}; {_DATA}"
        return
    data: Any = loader.dataset
    sampler = loader.sampler
    if isinstance(data, IterableDataset):
        yield f"the IterableDataset {type(data).__name__} has no index, so that no record has an id"
        return
    if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        kind = type(loader.batch_sampler or sampler).__name__
        yield f"batch_sampler {kind}: the batches are the run's own; give batch_size"
    elif type(sampler) not in {RandomSampler, SequentialSampler}:
        yield f"sampler {type(sampler).__name__}: the order of the records is the run's own"
    elif isinstance(sampler, RandomSampler) and (
        sampler.replacement or sampler.num_samples != len(data)
    ):
        yield "sampler RandomSampler with replacement or num_samples: every epoch goes over all"
    if loader.drop_last:
        yield "drop_last: no record is left out; batches of a block differ by one record at most"
    if loader.worker_init_fn is not None:
        yield "worker_init_fn: records are read under seeds of their own"


def scheduler_faults(configs: list[Any], *, is_automatic: bool) -> Iterator[str]:
    """What learning-rate schedulers depend on."""
    if configs and not is_automatic:
        yield (
            "lr_scheduler with manual optimization: it is stepped by training_step, and what it "
            "counts is in no checkpoint; set the rates by the step, or take automatic optimization"
        )
        return
    for config in configs:
        if config.reduce_on_plateau:
            yield (
                f"lr_scheduler {type(config.scheduler).__name__} goes by the metric "
                f"{config.monitor!r}; take one that depends on the number of the step alone"
            )
