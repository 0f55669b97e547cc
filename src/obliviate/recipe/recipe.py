"""What the user declares: how to train (Recipe), and what the command line runs (Project)."""

from __future__ import annotations

import contextlib
import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from obliviate.errors import InvalidRecipe
from obliviate.options import index_of
from obliviate.recipe.description import describe, placeless
from obliviate.recipe.faults import (
    LEAST,
    Accumulation,
    Dealing,
    OptimizerState,
    Precision,
    Reads,
    faults_of,
    is_number,
)
from obliviate.recipe.user_code import parameters_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch.optim import Optimizer
    from torch.utils.data import Dataset

    from obliviate.recipe.subjects import GivenReference

_NOT_SAID = {
    "collate": None,
    "block_seed": None,
    "reads": "batch",
    "deal": "subject",
    "microbatches": 1,
    "weigh": None,
    "accumulation": "tree",
    "precision": "fp32",
    "clip_norm": None,
    "ema": None,
}
"""What a fingerprint leaves out."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a block is trained on: with the data it determines every state of the chain.

    Attributes:
        model: Makes the module, without arguments; called under the run's seed.
        optimizer: Makes the optimizer from the model's parameters; or from the model, where its
            first parameter is named `model`: groups by the names of modules and parameters. It may
            give a tuple of several, which all make a step after each batch.
        loss: (outputs, targets) -> scalar, the mean over the batch. Not needed where `step` is
            given.
        collate: What makes a batch of a list of records, as a DataLoader's collate_fn does; torch's
            own collation if None. Whatever it draws, it draws from the global generators, which are
            seeded before it; it takes any number of records, as erasures leave them.
        batch_size: The largest batch.
        microbatches: How many parts a batch is cut into, for a forward and a backward pass each:
            gradient accumulation. Its places are cut, before erasures; a part that erasures leave
            empty adds nothing. Must be 1 or more.
        weigh: (microbatch, on the CPU or the device) -> how many items its loss is the mean over,
            such as tokens: a batch's loss is the sum of n / sum(n) times the loss of each part,
            whatever part the step then gives no loss for. One without items adds nothing. If None,
            n is the number of records.
        accumulation: In what order the gradients of microbatches are added: "tree" in a fixed
            binary tree, so that the bits do not depend on who worked out which part; "sequence"
            one after the other, as loops and other trainers do.
        precision: "bf16" or "fp16" for autocast around the forward pass and the loss of each
            microbatch. With "fp16" losses are scaled: a step whose gradients overflow is skipped,
            and leaves everything as it is but the scale, which is carried as the optimizer is.
        clip_norm: The largest norm of the gradients of all parameters together, to which they are
            clipped before the optimizer's step; None to leave them as they are.
        ema: The decay, between 0 and 1, of an exponential moving average of all that is trained,
            which begins with the initial weights and follows after each step. The run's model has
            the averages as its weights; buffers are those of training. None for no average.
        epochs: How often all records are gone through, each time in a new order.
        repeats: How often each block is gone through before the next one.
        seed: Fixes the initial weights, the place of every record, and all randomness of training.
        block_seed: Fixes the block of every record instead of `seed`, where it is given: recipes
            that differ in `seed` alone then train on the same blocks, from other weights, in
            another order within each block.
        schedule: (step, total_steps) -> factor on the optimizer's learning rates, over the steps of
            the whole chain, so that the state of a block depends on the block alone. Or a scheduler
            of torch's, by its factory: (optimizer) -> scheduler, such as
            `partial(CosineAnnealingLR, T_max=1000)`, or (optimizer, total_steps) -> scheduler; its
            first parameter is named `optimizer`. It is stepped once for each step of training.
        step: (model, batch) -> scalar loss; replaces `loss(model(x), y)`. None instead of a loss
            says that there is nothing to learn from this batch: the model stays as it is. With a
            third parameter named `items` it is given how many items (see `weigh`) the whole batch
            has, and gives its microbatch's part of the batch's loss: a sum over items, divided by
            them. With a parameter named `optimizers` it goes backward and makes its steps by
            itself, with the optimizers in that tuple, once for each batch (GANs); the loss that it
            gives is only told.
        optimizer_state: "carried" keeps the optimizer from block to block, as ordinary training
            does; its moments are part of the checkpoint: one more tensor for each parameter with
            momentum, two with Adam. "fresh" makes a new one in each block: smaller checkpoints.
        device: Where to train; states are kept on the CPU.
        workers: Processes that load data; 0 loads in this process.
        smallest_batch: Microbatches that erasures leave with fewer records are skipped, in training
            as in every replay; for losses that compare the records of a batch. If None, 2 for
            models with BatchNorm and 1 for others.
        score: (model, batch) -> one number for each record of the batch, the higher the better the
            model remembers it, for the method "calibrated". Not needed where single records have a
            loss of their own. Nothing is trained by it, so a run may be given it, or another,
            later on.
        reads: "more" declares that the model, the loss or the step reads records that are not in
            its batch, such as a graph's other nodes or a memory: no answer and no report calls an
            erasure exact then without saying what that does not cover.
        deal: "subject" keeps the records of a person together, in one block of an epoch, so that
            forgetting a person is as fast as forgetting a record; "record" scatters them. A record
            of several people goes with the first named; without subjects there is no difference.
        trainer: What trains by recipes of this class; called like `training.trainer.Trainer`, which
            it is if None.

    Raises:
        InvalidRecipe: Every fault that can be seen without running anything, in one message.
    """

    model: Callable[[], nn.Module]
    optimizer: Callable[[Any], Optimizer | Sequence[Optimizer]]
    loss: Callable[[Any, Any], Tensor] | None = None
    collate: Callable[[list[Any]], Any] | None = None
    batch_size: int = 32
    microbatches: int = 1
    weigh: Callable[[Any], float] | None = None
    accumulation: Accumulation = "tree"
    precision: Precision = "fp32"
    clip_norm: float | None = None
    ema: float | None = None
    epochs: int = 1
    repeats: int = 1
    seed: int = 0
    block_seed: int | None = None
    schedule: Callable[..., Any] | None = None
    step: Callable[..., Tensor | None] | None = None
    optimizer_state: OptimizerState = "carried"
    device: str = "cpu"
    workers: int = 0
    smallest_batch: int | None = None
    score: Callable[[nn.Module, Any], Tensor] | None = None
    reads: Reads = "batch"
    deal: Dealing = "subject"
    trainer: ClassVar[Callable[..., Any] | None] = None

    def __post_init__(self) -> None:
        given: Any = self.device
        if isinstance(given, torch.device):
            object.__setattr__(self, "device", str(given))
        for name in LEAST:
            number = index_of(getattr(self, name))  # a number of numpy's is a number
            if number is not None:
                object.__setattr__(self, name, number)
        for name in ("clip_norm", "ema"):
            if is_number(value := getattr(self, name)):
                object.__setattr__(self, name, float(value))
        if faults := list(faults_of(self)):
            raise invalid(faults)

    def fingerprint(
        self, model: nn.Module, optimizers: Sequence[Optimizer], schedule: str
    ) -> dict[str, str]:
        """What must not change between the making of a run and its later use, in comparable words.

        It sees declarations, shapes, options, and the tensors that a function was made with. It
        cannot see a change inside a function's body: a replay does, and `verify`.

        Args:
            model: A new one.
            optimizers: Of its parameters.
            schedule: The rates at the steps that the run was made with, in words.
        """
        order = {id(each): at for at, each in enumerate(model.parameters())}
        shapes = {
            name: f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
            for name, value in model.state_dict().items()
        }
        frozen = [name for name, each in model.named_parameters() if not each.requires_grad]
        words = {
            "model": placeless(repr(model)),
            "state": repr(sorted(shapes.items())),
            "frozen": repr(frozen),
            "optimizer": "; ".join(_optimizer_words(each, order) for each in optimizers),
            "loss": describe(self.loss),
            "step": describe(self.step),
            "schedule": schedule,
            "batch_size": str(self.batch_size),
            "epochs": str(self.epochs),
            "repeats": str(self.repeats),
            "seed": str(self.seed),
            "optimizer_state": self.optimizer_state,
            "smallest_batch": str(self.smallest_batch),
        }
        given = {name: getattr(self, name) for name in _NOT_SAID}
        return words | {
            name: value if isinstance(value, str) else describe(value)
            for name, value in given.items()
            if value != _NOT_SAID[name]
        }

    @cached_property
    def takes_items(self) -> bool:
        """Whether the step is given how many items the whole batch has."""
        return self._parameters_of_step[2:3] == ("items",)

    @cached_property
    def is_manual(self) -> bool:
        """Whether the step goes backward, and makes the optimizers' steps, by itself."""
        return "optimizers" in self._parameters_of_step

    @cached_property
    def _parameters_of_step(self) -> tuple[str, ...]:
        return tuple(parameters_of(self.step)) if self.step is not None else ()

    def items_of(self, batch: Any) -> float:
        """How many items a microbatch has, by `weigh`.

        Raises:
            InvalidRecipe: It gives no finite number that is 0 or more.
        """
        assert self.weigh is not None  # noqa: S101 - whoever asks has seen to it
        value = self.weigh(batch)
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            items = float(value)
            if not isinstance(value, bool | str) and math.isfinite(items) and items >= 0:
                return int(items) if items.is_integer() else items
        raise invalid(
            [f"weigh(batch) gave {value!r}; it must give a number of items that is 0 or more"]
        )

    def loss_of_step(
        self,
        model: nn.Module,
        batch: Any,
        items: float | None = None,
        optimizers: Sequence[Optimizer] | None = None,
    ) -> Any:
        """What the step gives for a microbatch.

        Args:
            model: In what state and mode it is.
            batch: The microbatch.
            items: How many the whole batch has; if None, the microbatch stands alone.
            optimizers: What a step that makes its own steps makes them with.

        Raises:
            InvalidRecipe: Without optimizers, such a step gives no loss.
        """
        assert self.step is not None  # noqa: S101 - whoever asks has seen to it
        if self.is_manual:
            if optimizers is None:
                raise InvalidRecipe(
                    "a step that makes its own steps gives no loss of single records",
                    hint="give Recipe(score=...), or another method than calibrated",
                )
            return self.step(model, batch, optimizers=tuple(optimizers))
        if not self.takes_items:
            return self.step(model, batch)
        items = self.items_of(batch) if items is None else items
        return self.step(model, batch, items) if items else None


def _optimizer_words(optimizer: Optimizer, order: Mapping[int, int]) -> str:
    groups = [_group_words(group, order) for group in optimizer.param_groups]
    return f"{type(optimizer).__name__} {groups}"


def _group_words(group: Mapping[str, Any], order: Mapping[int, int]) -> dict[str, str]:
    """A parameter group's options, and which of the model's parameters it has."""
    words = {name: repr(value) for name, value in group.items() if not name.startswith("param")}
    its = repr([order.get(id(each)) for each in group["params"]])
    return words | {"params": hashlib.sha256(its.encode()).hexdigest()[:16]}


def invalid(faults: Iterable[str]) -> InvalidRecipe:
    """The error that lists every fault."""
    listed = list(faults)
    return InvalidRecipe(
        "this cannot be trained: " + "; ".join(listed),
        hint="mend what is named and call again; nothing was written",
    )


@dataclass(frozen=True, kw_only=True)
class Project:
    """What a project file defines for the command line, under the name `project`.

    Attributes:
        recipe: How to train.
        data: The training records, a map-style dataset of (input, target).
        test: Records to measure accuracy on; never trained on.
        reference: Records of the same kind that are never trained on, off which erasures read how a
            model behaves that never saw a record; or those and whose they are: see `fit`. The test
            records serve.
        subjects: The subject of each record, where requests name people.
        probes: Further records that the laboratory measures models on, by name; never trained on.
            Images with a planted trigger and the target it should give, say: the accuracy on them
            is how often the trigger works.
        blocks: How many blocks an epoch is cut into.
        keep: Of how many of the last epochs every update is kept; see `fit`.
        evaluate: Measures the model while it is trained; see `fit`, also for the next two.
        every: After how many blocks.
        stop: Whether training ends early.
        seal: The master key that the run's checkpoints are encrypted with, such as `ob.KeyFile`.
    """

    recipe: Recipe
    data: Dataset[Any]
    test: Dataset[Any] | None = None
    reference: GivenReference | None = None
    subjects: Sequence[str] | None = None
    probes: Mapping[str, Dataset[Any]] | None = None
    blocks: int = 100
    keep: int | None = None
    evaluate: Callable[[nn.Module], Mapping[str, Any]] | None = None
    every: int | None = None
    stop: Callable[[Mapping[int, Mapping[str, float]]], bool] | None = None
    seal: Any = None
