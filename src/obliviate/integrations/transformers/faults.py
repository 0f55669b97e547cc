"""What a Transformers Trainer is told to do and no replay could do again, each by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, trainer_callback
from transformers.integrations import integration_utils

from obliviate.integrations.transformers.arguments import argument_faults

if TYPE_CHECKING:
    from collections.abc import Iterator

OVERRIDDEN = {
    "train": "it trains in a way of its own",
    "_inner_training_loop": "it trains in a way of its own",
    "_run_epoch": "it trains in a way of its own",
    "training_step": "a replay makes its own backward passes; override compute_loss",
    "get_train_dataloader": "the order of the records is the run's own",
    "_get_dataloader": "the order of the records is the run's own",
    "_get_train_sampler": "the order of the records is the run's own",
    "get_batch_samples": "the batches are the run's own",
    "set_initial_training_values": "the number of steps is the run's own",
    "create_optimizer_and_scheduler": "override create_optimizer and create_scheduler",
    "_clip_grad_norm": "gradients are clipped by max_grad_norm",
    "_wrap_model": "a run trains the model itself",
}
"""Methods that a subclass may not have of its own, and why."""

STEP_EVENTS = (
    "on_epoch_begin",
    "on_step_begin",
    "on_substep_end",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_step_end",
    "on_epoch_end",
)
"""What a callback could change a training in the middle of; a run tells of whole blocks."""

_OF_NO_ACCOUNT = (
    trainer_callback.DefaultFlowCallback,
    trainer_callback.ProgressCallback,
    trainer_callback.PrinterCallback,
)


def trainer_faults(trainer: Trainer) -> Iterator[str]:
    """All that cannot be carried over."""
    is_given = trainer.optimizer is not None or trainer.optimizer_cls_and_kwargs is not None
    is_given = is_given or _is_own(trainer, "create_optimizer")
    yield from argument_faults(trainer.args, is_optimizer_given=is_given)
    for name, why in OVERRIDDEN.items():
        if _is_own(trainer, name):
            yield f"{type(trainer).__name__} has a {name} of its own: {why}"
    yield from _data_faults(trainer.train_dataset)
    if isinstance(trainer.lr_scheduler, ReduceLROnPlateau) or "Greedy" in _kind(
        trainer.lr_scheduler
    ):
        yield (
            f"the scheduler is a {_kind(trainer.lr_scheduler)}, whose rates depend on a metric; "
            "take one that depends on the step alone"
        )
    if trainer.args.mixed_precision not in {"no", "bf16"} and not trainer.args.fp16:
        yield f"mixed precision {trainer.args.mixed_precision!r}: take bf16"
    if getattr(trainer.model, "hf_device_map", None) and trainer.is_model_parallel:
        yield "the model lies on several devices; a run trains on one"
    if trainer.model_init is None:
        yield from _copy_faults(trainer.model)
    for each in trainer.callback_handler.callbacks:
        yield from _callback_faults(each)


def _copy_faults(model: nn.Module) -> Iterator[str]:
    """Hooks that would go on using the very model that they were written for."""
    for name, module in model.named_modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        for hook in hooks:
            cells = getattr(hook, "__closure__", None) or ()
            if any(isinstance(_content(cell), nn.Module | Tensor) for cell in cells):
                yield (
                    f"a hook of {name or 'the model'!r} holds a part of the model, so that a copy "
                    "of the model would go on using it; give model_init, and make the hook there"
                )


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is still empty
        return None


def _data_faults(data: Any) -> Iterator[str]:
    if data is None:
        yield "train_dataset is missing"
    elif isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        yield (
            f"train_dataset is the {_kind(data)} without length or index, so that no record of it "
            "can be named; give a map-style dataset"
        )


def _callback_faults(callback: TrainerCallback) -> Iterator[str]:
    kind = type(callback)
    if kind in _OF_NO_ACCOUNT or kind.__module__ == integration_utils.__name__:
        return
    if isinstance(callback, trainer_callback.EarlyStoppingCallback):
        yield f"the callback {kind.__name__} ends training early; give fewer num_train_epochs"
        return
    own = [
        name for name in STEP_EVENTS if getattr(kind, name) is not getattr(TrainerCallback, name)
    ]
    if own and not isinstance(callback, _OF_NO_ACCOUNT):
        yield (
            f"the callback {kind.__name__} has {own[0]}, and no replay would call it; what "
            "looks on without touching anything can be on_log, on_evaluate or on_train_end"
        )


def _is_own(trainer: Trainer, name: str) -> bool:
    """Whether a Trainer has a method that is not the library's."""
    return name in vars(trainer) or getattr(type(trainer), name) is not getattr(Trainer, name)


def _kind(thing: Any) -> str:
    return type(thing).__name__
