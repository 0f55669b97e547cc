"""Training arguments: what becomes of each field of Transformers' `TrainingArguments`.

A field is carried over, does not matter to training, or is refused where it asks for something that
a replay could not do again. A test goes through all fields of the class: one that is in no table
here is new, and `erasable` refuses it where it is set.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CARRIED = frozenset(
    {
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "num_train_epochs",
        "learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "optim",
        "optim_args",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "label_smoothing_factor",
        "bf16",
        "tf32",  # a switch of the process, which a run remembers
        "use_cpu",
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "gradient_checkpointing",  # the older names of the two before
        "gradient_checkpointing_kwargs",
        "use_cache",
        "seed",
        "dataloader_num_workers",
        "remove_unused_columns",
        "label_names",
        "average_tokens_across_devices",
        "logging_strategy",
        "report_to",
        "run_name",
        "project",
        "eval_strategy",
        "per_device_eval_batch_size",
        "prediction_loss_only",
        "eval_do_concat_batches",
        "eval_accumulation_steps",
        "include_for_metrics",
        "batch_eval_metrics",
    }
)
"""What `erasable` does as `Trainer.train` would."""

IMMATERIAL = frozenset(
    {
        # the order of the records is the run's own
        "data_seed",
        "length_column_name",
        # how a training is kept: a run keeps its own checkpoints, whatever these say
        "output_dir",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "save_only_model",
        "save_on_each_node",
        "ignore_data_skip",
        "restore_callback_states_from_checkpoint",
        # when something is told, and to whom: a run tells of each block
        "logging_steps",
        "logging_first_step",
        "logging_nan_inf_filter",  # what is not finite ends a run's training
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "disable_tqdm",
        "include_num_input_tokens_seen",
        "skip_memory_metrics",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "metric_for_best_model",
        "greater_is_better",
        "eval_steps",
        "eval_delay",
        "eval_on_start",
        "eval_use_gather_object",
        "bf16_full_eval",
        "fp16_full_eval",
        # what is said to the hub, where nothing is pushed to it
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
        # how batches come to the model, with the same content
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
        "dataloader_multiprocessing_context",
        "dataloader_in_order",
        "torch_empty_cache_steps",
        # training is deterministic in any case
        "full_determinism",
        # how several processes train together, where there is one
        "ddp_find_unused_parameters",
        "ddp_bucket_cap_mb",
        "ddp_broadcast_buffers",
        "ddp_static_graph",
        "ddp_backend",
        "ddp_timeout",
        "local_rank",
        "fsdp_config",
        # what belongs to something else that is refused where it is set
        "torch_compile_backend",
        "torch_compile_mode",
        "liger_kernel_config",
        "optim_target_modules",
        # what scripts read
        "do_train",
        "do_eval",
        "do_predict",
    }
)
"""What changes nothing of the weights."""


def _is_set(value: Any) -> bool:
    return bool(value)


def _is_given(value: Any) -> bool:
    return value is not None


def _other_than(*allowed: Any) -> Callable[[Any], bool]:
    return lambda value: _plain(value) not in allowed


@dataclass(frozen=True)
class Refusal:
    """A field that is refused where it asks for something.

    Attributes:
        asks: Whether a value of the field does.
        why: Why that cannot be carried over, and what to do instead.
    """

    asks: Callable[[Any], bool]
    why: str


REPLAYED_OPTIMIZERS = (
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
    "adagrad",
    "rmsprop",
    "stable_adamw",
)
"""Those whose steps depend on gradients and their own state alone."""

REFUSED: dict[str, Refusal] = {
    "max_steps": Refusal(
        lambda value: value > 0, "it may cut an epoch short; give num_train_epochs"
    ),
    "train_sampling_strategy": Refusal(
        _other_than("random"),
        'the order of the records is the run\'s own, so that one can be left out; leave "random"',
    ),
    "dataloader_drop_last": Refusal(
        _is_set, "no record is dropped: the batches of a block are of about one size"
    ),
    "auto_find_batch_size": Refusal(
        _is_set, "a replay needs the batches that were trained on; give a batch size that fits"
    ),
    "load_best_model_at_end": Refusal(
        _is_set, "the model of a run is the one at its end; give fewer num_train_epochs"
    ),
    "fp16": Refusal(
        _is_set, "steps that overflow are skipped, and Trainer's schedule with them; take bf16"
    ),
    "neftune_noise_alpha": Refusal(
        _is_given, "its noise is a hook that stays in the model; add noise in the model itself"
    ),
    "torch_compile": Refusal(_is_set, "compiled code may give other bits the next time"),
    "use_liger_kernel": Refusal(_is_set, "it rewrites the model's class in each process"),
    "fsdp": Refusal(_is_set, "a run trains in one process"),
    "deepspeed": Refusal(_is_given, "a run trains in one process"),
    "parallelism_config": Refusal(_is_given, "a run trains in one process"),
    "accelerator_config": Refusal(
        lambda value: bool(getattr(value, "gradient_accumulation_kwargs", None)),
        "gradient_accumulation_kwargs change what a step is; give gradient_accumulation_steps",
    ),
    "push_to_hub": Refusal(_is_set, "push what is to be public yourself: run.model.push_to_hub()"),
    "resume_from_checkpoint": Refusal(
        _is_given, "a run resumes from its own folder, by the same call"
    ),
    "enable_jit_checkpoint": Refusal(_is_set, "a run survives being killed without it"),
    "debug": Refusal(_is_set, "its hooks stay in the model"),
}
"""What would be lost in silence, were it not refused."""


def argument_faults(arguments: Any, *, is_optimizer_given: bool = False) -> Iterator[str]:
    """What the arguments ask for that cannot be carried over, each by its name.

    Args:
        arguments: A `TrainingArguments`, of the library's class or of one derived from it.
        is_optimizer_given: Whether `optim` is of no account, since the optimizer was given.
    """
    for each in dataclasses.fields(arguments):
        value = getattr(arguments, each.name)
        if each.name in REFUSED:
            if REFUSED[each.name].asks(value):
                yield f"{each.name}={_plain(value)!r}: {REFUSED[each.name].why}"
        elif each.name not in CARRIED | IMMATERIAL and value != default_of(each):
            yield (
                f"{each.name}={_plain(value)!r}: this field is not known here, so that it would be "
                "lost; leave it out"
            )
    if _plain(arguments.optim) not in REPLAYED_OPTIMIZERS and not is_optimizer_given:
        yield (
            f"optim={_plain(arguments.optim)!r}: what it does beside a step cannot be replayed; "
            f"take one of {', '.join(REPLAYED_OPTIMIZERS)}, or give optimizer_cls_and_kwargs"
        )
    if _plain(arguments.lr_scheduler_type) in {"reduce_lr_on_plateau", "greedy"}:
        yield (
            f"lr_scheduler_type={_plain(arguments.lr_scheduler_type)!r}: its rates depend on a "
            "metric, and so on everybody; take one that depends on the step alone"
        )
    if arguments.num_train_epochs != int(arguments.num_train_epochs):
        yield f"num_train_epochs={arguments.num_train_epochs}: epochs are whole"
    if arguments.world_size > 1:
        yield f"{arguments.world_size} processes: a run trains in one; do not use a launcher"
    if arguments.n_gpu > 1:
        yield f"{arguments.n_gpu} GPUs: a run trains on one; set CUDA_VISIBLE_DEVICES=0"


def default_of(each: dataclasses.Field[Any]) -> Any:
    """What a field is where nobody sets it."""
    if each.default_factory is not dataclasses.MISSING:
        return each.default_factory()
    return each.default


def _plain(value: Any) -> Any:
    """A value as one writes it: an enumeration's by its word."""
    return getattr(value, "value", value)
