"""What the user declares: how to train (Recipe), and what the command line runs (Project)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from obliviate.errors import InvalidRecipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch.optim import Optimizer
    from torch.utils.data import Dataset

OptimizerState = Literal["fresh", "carried"]
_SCHEDULE_PROBES = (0.0, 0.25, 0.5, 0.75, 1.0)
_PROBED_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a block is trained on: with the data it determines every state of the chain.

    Attributes:
        model: Makes the module, without arguments; called under the run's seed.
        optimizer: Makes the optimizer from the model's parameters.
        loss: (outputs, targets) -> scalar, the mean over the batch. Not needed where `step` is
            given.
        batch_size: The largest batch.
        epochs: How often each block is gone through before the next one.
        seed: Fixes the initial weights, the place of every record, and all randomness of training.
        block_seed: Fixes the block of every record instead of `seed`, where it is given: recipes
            that differ in `seed` alone then train on the same blocks, from other weights, in
            another order within each block.
        schedule: (step, total_steps) -> factor on the optimizer's learning rates, over the steps of
            the whole chain, so that the state of a block depends on the block alone.
        step: (model, batch) -> scalar loss; replaces `loss(model(x), y)`.
        optimizer_state: "fresh" makes a new optimizer in each block: smaller checkpoints, and no
            trace of erased records in moments. "carried" keeps it from block to block, as part of
            the checkpoint.
        device: Where to train; states are kept on the CPU.
        workers: Processes that load data; 0 loads in this process.
        score: (model, batch) -> one number for each record of the batch, the higher the better the
            model remembers it, for the method "calibrated". Not needed where single records have a
            loss of their own. Nothing is trained by it, so a run may be given it, or another,
            later on.

    Raises:
        InvalidRecipe: Every fault that can be seen without running anything, in one message.
    """

    model: Callable[[], nn.Module]
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    loss: Callable[[Any, Any], Tensor] | None = None
    batch_size: int = 32
    epochs: int = 1
    seed: int = 0
    block_seed: int | None = None
    schedule: Callable[[int, int], float] | None = None
    step: Callable[[nn.Module, Any], Tensor] | None = None
    optimizer_state: OptimizerState = "fresh"
    device: str = "cpu"
    workers: int = 0
    score: Callable[[nn.Module, Any], Tensor] | None = None

    def __post_init__(self) -> None:
        faults = [*self._callable_faults(), *self._number_faults(), *self._choice_faults()]
        if faults:
            raise invalid(faults)

    def _callable_faults(self) -> Iterable[str]:
        for name, call in (("model", "Net"), ("optimizer", "partial(torch.optim.SGD, lr=0.1)")):
            value = getattr(self, name)
            if isinstance(value, nn.Module):
                yield f"{name} is a module that exists already; give the factory, such as {call}"
            elif not callable(value):
                yield f"{name} is {value!r}; it must be callable, such as {call}"
        for name in ("loss", "schedule", "step", "score"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                yield f"{name} is {value!r}; it must be callable or None"
        if self.loss is None and self.step is None:
            yield "loss and step are missing; give loss(outputs, targets) or step(model, batch)"

    def _number_faults(self) -> Iterable[str]:
        limits = {"batch_size": 1, "epochs": 1, "workers": 0, "seed": None, "block_seed": None}
        for name, least in limits.items():
            value = getattr(self, name)
            if name == "block_seed" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                yield f"{name} is {value!r}; it must be an int"
            elif least is not None and value < least:
                yield f"{name} is {value}; it must be {least} or more"

    def _choice_faults(self) -> Iterable[str]:
        if self.optimizer_state not in get_args(OptimizerState):
            yield f'optimizer_state is {self.optimizer_state!r}; it must be "fresh" or "carried"'
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError, TypeError) as error:
            yield f"device {self.device!r} cannot be used here ({str(error).splitlines()[0]})"

    def fingerprint(self, model: nn.Module, optimizer: Optimizer) -> dict[str, str]:
        """What must not change between the making of a run and its later use, in comparable words.

        It sees declarations, shapes and options. It cannot see a change inside a function's body:
        `verify` does.
        """
        groups = [
            {name: repr(value) for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        schedule = self.schedule
        factors = [
            round(float(schedule(int(at * _PROBED_STEPS), _PROBED_STEPS)), 12) if schedule else 1.0
            for at in _SCHEDULE_PROBES
        ]
        shapes = {
            name: f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
            for name, value in model.state_dict().items()
        }
        words = {
            "model": re.sub(r"0x[0-9a-f]+", "0x", repr(model)),
            "state": repr(sorted(shapes.items())),
            "optimizer": f"{type(optimizer).__name__} {groups}",
            "loss": describe(self.loss),
            "step": describe(self.step),
            "schedule": repr(factors),
            "batch_size": str(self.batch_size),
            "epochs": str(self.epochs),
            "seed": str(self.seed),
            "optimizer_state": self.optimizer_state,
        }
        if self.block_seed is not None:  # runs made before there was one stay as they are
            words["block_seed"] = str(self.block_seed)
        return words


def describe(thing: Any) -> str:
    """Name a callable by what it is, not by where it lies in memory or in which file."""
    if isinstance(thing, partial):
        given = [describe(value) for value in thing.args]
        given += [f"{name}={describe(value)}" for name, value in sorted(thing.keywords.items())]
        return f"{describe(thing.func)}({', '.join(given)})"
    if isinstance(thing, nn.Module):
        return re.sub(r"0x[0-9a-f]+", "0x", repr(thing))
    if callable(thing):
        return str(getattr(thing, "__qualname__", type(thing).__qualname__))
    return re.sub(r"0x[0-9a-f]+", "0x", repr(thing))


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
        subjects: The subject of each record, where requests name people.
        probes: Further records that the laboratory measures models on, by name; never trained on.
            Images with a planted trigger and the target it should give, say: the accuracy on them
            is how often the trigger works.
        blocks: How many blocks the data is cut into.
        seal: The master key that the run's checkpoints are encrypted with, such as `ob.KeyFile`.
    """

    recipe: Recipe
    data: Dataset[Any]
    test: Dataset[Any] | None = None
    subjects: Sequence[str] | None = None
    probes: Mapping[str, Dataset[Any]] | None = None
    blocks: int = 100
    seal: Any = None
