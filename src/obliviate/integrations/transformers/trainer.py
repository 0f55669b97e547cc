"""A Transformers Trainer that works for a run: it is lent models, and gives what is asked of it.

The Trainer's own methods are called as `Trainer.train` calls them, with the model that the run
trains in the place of its own, and everything is put back behind them.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import operations
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, ProcessorMixin, set_seed
from transformers.models.auto import modeling_auto
from transformers.trainer_utils import align_special_tokens

from obliviate.integrations.transformers.scores import base_of, scores_of
from obliviate.recipe.description import describe
from obliviate.recipe.recipe import invalid
from obliviate.training.model import load_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import Trainer

    from obliviate.states.update import State

_ITEM = 1 << 20
"""What an item weighs beside a microbatch: one number counts both, and a batch has fewer parts."""
_SPEEDS = ("_runtime", "_per_second", "_time")
_PLAIN = str | int | float | bool | None


class LentTrainer:
    """What a recipe is made of, by a Trainer.

    Attributes:
        trainer: The Trainer.
        prototype: The model that every model of the run begins as: a copy of it, or made as it was
            where the Trainer has a `model_init`.
        hidden: A column of the training data that no model is shown.
    """

    def __init__(self, trainer: Trainer, hidden: str | None = None) -> None:
        """Make the Trainer's model what it is when its training begins."""
        self.trainer, self.prototype, self.hidden = trainer, _begun(trainer), hidden
        self._first: State | None = None
        self._optimizer, self._scheduler = trainer.optimizer, trainer.lr_scheduler
        self._is_mixed = trainer.accelerator.native_amp
        kind = type(base_of(self.prototype)).__name__
        causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        self._is_shifted = trainer._loss_shifts_labels or kind in causal

    def __repr__(self) -> str:
        """What a run knows a Trainer by: the same in every process."""
        trainer, args = self.trainer, self.trainer.args
        words = {
            "compute_loss": describe(trainer.compute_loss),
            "compute_loss_func": describe(trainer.compute_loss_func),
            "is scaled": trainer.loss_is_scaled_for_ga,
            "label smoothing": args.label_smoothing_factor,
            "precision": args.mixed_precision if self._is_mixed else "no",
            "checkpointing": args.activation_checkpointing,
            "labels": trainer.label_names,
            "collator": _told(trainer.data_collator),
        }
        return f"{type(trainer).__name__} {words}"

    def model(self) -> nn.Module:
        """A new model, as it is before training."""
        is_copied = self.trainer.model_init is None
        model = copy.deepcopy(self.prototype) if is_copied else _begun(self.trainer)
        if self._first is not None:
            load_state(model, self._first)
        return model

    def begin_with(self, first: State) -> None:
        """Let every model begin with the weights that a run began with."""
        self._first = first

    def optimizer(self, model: nn.Module) -> Optimizer:
        """The optimizer that the Trainer makes for a model, or a copy of the one it was given."""
        if self._optimizer is not None:
            made: Optimizer = copy.deepcopy(self._optimizer, self._exchanged(model))
            return made
        with lent(self.trainer, model=model, model_wrapped=model, optimizer=None):
            self.trainer.create_optimizer()
            new: Optimizer = self.trainer.optimizer
            return new

    def _exchanged(self, model: nn.Module) -> dict[int, Any]:
        """What stands for what, where a thing of the prototype's is copied for a model."""
        new = dict(model.named_parameters())
        return {id(each): new[name] for name, each in self.prototype.named_parameters()}

    def schedule(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        """The scheduler that the Trainer makes for an optimizer, or a copy of what it was given."""
        if self._scheduler is not None:
            made: LRScheduler = copy.deepcopy(self._scheduler, {id(self._optimizer): optimizer})
            return made
        was_made = self.trainer._created_lr_scheduler
        with lent(
            self.trainer, optimizer=optimizer, lr_scheduler=None, _created_lr_scheduler=was_made
        ):
            self.trainer.create_scheduler(num_training_steps=total_steps)
            new: LRScheduler = self.trainer.lr_scheduler
            return new

    def collate(self, records: Sequence[Any]) -> Any:
        """A batch, as the Trainer's collator makes it of what the model takes."""
        if self.hidden is not None:
            records = [
                {name: value for name, value in each.items() if name != self.hidden}
                for each in records
            ]
        collator = self.trainer._get_collator_with_removed_columns(self.trainer.data_collator)
        return collator(records)

    def weigh(self, batch: Any) -> int:
        """How many items and microbatches a microbatch is, in one number that can be summed up."""
        count = self._count(batch)
        return _ITEM * (0 if count is None else int(count)) + 1

    def _count(self, batch: Any) -> Tensor | int | None:
        """The number of labelled items, where the Trainer counts them for this model."""
        count: Tensor | int | None = self.trainer._get_num_items_in_batch(
            [batch], self.trainer.args.device
        )
        return count

    def step(self, model: nn.Module, batch: Any, items: int) -> Tensor | None:
        """A microbatch's part of the loss of its batch, as the Trainer works it out.

        Args:
            model: In training mode.
            batch: The microbatch.
            items: What all microbatches of the batch weigh together.
        """
        trainer = self.trainer
        counted, microbatches = divmod(int(items), _ITEM)
        is_counted = self._count(batch) is not None
        if is_counted and not counted:
            return None  # nothing is labelled: there is nothing to learn
        count = torch.tensor(counted, device=trainer.args.device) / 1 if is_counted else None
        with self._at_work(model, microbatches):
            inputs = trainer._prepare_inputs(batch)
            with trainer.compute_loss_context_manager():
                loss: Tensor = trainer.compute_loss(model, inputs, num_items_in_batch=count)
        is_scaled = trainer.loss_is_scaled_for_ga
        if is_scaled is None:
            is_scaled = trainer.compute_loss_func is not None or (
                trainer.model_accepts_loss_kwargs and is_counted
            )
        return loss if is_scaled else loss / microbatches

    def score(self, model: nn.Module, batch: Any) -> Tensor:
        """How well a model remembers each record; see `scores_of`."""
        return scores_of(model, batch, is_shifted=self._is_shifted)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """What the Trainer measures of a model on its `eval_dataset`, telling nobody."""
        trainer = self.trainer
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                lent(trainer, model=model, model_wrapped=model, log=_unlogged, is_in_train=True)
            )
            stack.enter_context(lent(trainer.callback_handler, callbacks=[]))
            stack.enter_context(lent(trainer.accelerator, _models=[model]))  # it wraps none then
            if self._is_mixed:
                stack.enter_context(lent(model, forward=self._mixed(model.forward)))
            found = trainer.evaluate()
        return {
            name: float(value)
            for name, value in found.items()
            if isinstance(value, int | float) and not name.endswith(_SPEEDS)
        }

    @contextlib.contextmanager
    def _at_work(self, model: nn.Module, microbatches: int) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                lent(
                    self.trainer,
                    model=model,
                    model_wrapped=model,
                    state=_Unknown(),
                    log=_unlogged,
                    is_in_train=True,
                    current_gradient_accumulation_steps=microbatches,
                )
            )
            if self._is_mixed:
                stack.enter_context(lent(model, forward=self._mixed(model.forward)))
            yield

    def _mixed(self, forward: Any) -> Any:
        """A forward pass under autocast, its outputs in full precision: as accelerate does it."""
        handler = self.trainer.accelerator.autocast_handler
        autocast = torch.autocast(
            device_type=self.trainer.args.device.type,
            dtype=torch.bfloat16,
            **({} if handler is None else handler.to_kwargs()),
        )
        return operations.convert_outputs_to_fp32(autocast(forward))


@contextlib.contextmanager
def lent(thing: Any, **attributes: Any) -> Iterator[None]:
    """Give a thing other attributes for a while."""
    own = vars(thing)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            own.pop(name, None)
        own.update(before)


class _Unknown:
    """The state of a Trainer while it works out a loss: a replay knows nothing of it."""

    def __getattr__(self, name: str) -> Any:
        raise invalid(
            [
                f"the Trainer's loss reads state.{name}, which no replay would know; let it depend "
                "on the model and the batch alone"
            ]
        )


def _unlogged(*_given: Any, **_named: Any) -> None:
    """What is logged while a loss is worked out would come again with every replay."""


def _begun(trainer: Trainer) -> nn.Module:
    """A Trainer's model as it is when its training begins."""
    model: Any = trainer.model
    args = trainer.args
    if trainer.model_init is not None:
        set_seed(args.seed)
        model = trainer.call_model_init()
    model = model.to(args.device)
    if args.activation_checkpointing:
        options = dict(args.activation_checkpointing_kwargs or {})
        model.activation_checkpointing_enable(
            every_n_layers=options.pop("every_n_layers", 1),
            offload=options.pop("offload", False),
            activation_checkpointing_kwargs=options or None,
        )
    tokenizer: Any = trainer.processing_class
    if isinstance(tokenizer, PreTrainedTokenizerBase | ProcessorMixin) and hasattr(model, "config"):
        align_special_tokens(model, tokenizer)
    begun: nn.Module = model
    return begun


def _told(collator: Any) -> str:
    """A collator in words: what it is, and its plain options."""
    options = getattr(collator, "__dict__", {})
    plain = {name: value for name, value in sorted(options.items()) if isinstance(value, _PLAIN)}
    return f"{describe(collator)} {plain}"
