"""Training, block by block: (state, block) -> state, the same bits every time.

A state depends on the recipe, the seed, the data of the retained records and the block number
alone. Before every step all generators are seeded from (seed, block, step), so that the randomness
of later steps does not shift when a record disappears.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from obliviate.blocks import Layout, key
from obliviate.environment import Environment, seed_generators
from obliviate.errors import NotDeterministic, NotFinite, ObliviateError, TrainingFailed
from obliviate.feed import feed_of
from obliviate.moments import packed_optimizer, unpack_optimizer
from obliviate.progress import Event
from obliviate.recipe import invalid
from obliviate.state import captured, digest
from obliviate.vault.codec import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch.optim import Optimizer
    from torch.utils.data import Dataset

    from obliviate.feed import Feed
    from obliviate.recipe import Recipe
    from obliviate.state import State

SECONDS_BETWEEN_EVENTS = 0.2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What training needs to go on after a block.

    Attributes:
        model: The state dict.
        optimizer: The packed optimizer state, where it is carried.
    """

    model: State
    optimizer: State | None = None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A block that was trained on.

    Attributes:
        block: Its number.
        checkpoint: The state after it.
        loss: Mean loss over its steps; None where every batch was left empty.
        seconds: How long it took.
    """

    block: int
    checkpoint: Checkpoint
    loss: float | None
    seconds: float


class Trainer:
    """Trains on blocks of one dataset by one recipe.

    Attributes:
        model: The live module, on the recipe's device.
        environment: The process-wide settings that bits depend on.
        parameters: Names of the parameters, tied ones once: what residual memory is measured on.
        variances: Names of the running variances of BatchNorm: what must not become negative.
    """

    def __init__(self, recipe: Recipe, data: Dataset[Any], layout: Layout, threads: int) -> None:
        self.recipe, self.layout = recipe, layout
        self._feed: Feed = feed_of(data, recipe.workers)
        self.environment = Environment(recipe.device, threads)
        with self.environment.entered():
            self.model = made_model(recipe)
        self._optimizer = self._new_optimizer()
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self.parameters = frozenset(name for name, _ in self.model.named_parameters())
        self.variances = frozenset(
            f"{name}.running_var" if name else "running_var"
            for name, module in self.model.named_modules(remove_duplicate=False)
            if isinstance(module, _BatchNorm) and module.running_var is not None
        )

    def initial(self) -> Checkpoint:
        """The state before block 1."""
        with self.environment.entered():
            return Checkpoint(model=captured(made_model(self.recipe).state_dict()))

    def fingerprint(self) -> dict[str, str]:
        """The recipe in comparable words; see `Recipe.fingerprint`."""
        return self.recipe.fingerprint(self.model, self._new_optimizer())

    def train(
        self, start: Checkpoint, blocks: Iterable[int], erased: NDArray[np.int64]
    ) -> Iterator[Event | Trained]:
        """Train on block after block, from a checkpoint, without the erased records.

        Args:
            start: The state before the first of the blocks.
            blocks: Their numbers, ascending without a gap.
            erased: Sorted ids. They are never asked of the dataset.

        Yields:
            Each block as `Trained`; in between, for long blocks, how far the block has come.

        Raises:
            NotFinite: The loss of a block is NaN or infinite.
            TrainingFailed: The dataset, the model, the loss or the optimizer raised.
        """
        self.load(start.model)
        self._renew_optimizer(start.optimizer)
        del start  # a state is large; nobody may need this one any more
        for block in blocks:
            yield from self._train_block(block, erased)
            if self.recipe.optimizer_state == "fresh":
                self._renew_optimizer(None)

    def load(self, state: State) -> None:
        """Put a state into the live module."""
        load_state(self.model, state)

    def batch(self, records: NDArray[np.int64], seed: int = 0) -> Any:
        """The batch of some records, on the recipe's device.

        Raises:
            TrainingFailed: The dataset raised.
        """
        with self.environment.entered(), named("the dataset"):
            return moved(self._feed.batch(records, seed), self.recipe.device)

    def forward(self, batch: Any) -> Tensor:
        """The loss of a batch under the live module."""
        if self.recipe.step is not None:
            return self.recipe.step(self.model, batch)
        inputs, targets = batch
        assert self.recipe.loss is not None  # noqa: S101 - the recipe saw to it
        return self.recipe.loss(self.model(inputs), targets)

    def _train_block(self, block: int, erased: NDArray[np.int64]) -> Iterator[Event | Trained]:
        started = time.perf_counter()
        steps = self.layout.batches(block, erased)
        feed = self._feed.batches(steps, key(self.recipe.seed, "fetch", block))
        losses: list[Tensor] = []
        self.model.train()
        is_over = False
        while not is_over:
            with self.environment.entered():
                done, is_over = self._spurt(block, feed, losses)
            if not is_over:
                yield Event(
                    task="block", done=done / self.layout.steps(block), total=1, block=block
                )
        loss = _mean_loss(losses, block)
        optimizer = self._optimizer if self.recipe.optimizer_state == "carried" else None
        yield Trained(
            block=block,
            checkpoint=Checkpoint(
                model=captured(self.model.state_dict()),
                optimizer=None if optimizer is None else packed_optimizer(optimizer),
            ),
            loss=loss,
            seconds=time.perf_counter() - started,
        )

    def _spurt(
        self, block: int, feed: Iterator[tuple[int, Any]], losses: list[Tensor]
    ) -> tuple[int, bool]:
        """Make steps until some time has gone by; return the last step and whether all is done."""
        until, step = time.perf_counter() + SECONDS_BETWEEN_EVENTS, 0
        first_step, total = self.layout.first_step(block), self.layout.total_steps
        schedule = self.recipe.schedule
        while time.perf_counter() < until:
            with named(f"block {block}: the dataset"):
                fetched = next(feed, None)
            if fetched is None:
                return step, True
            step, batch = fetched
            with named(f"block {block}, step {step}: training"):
                if schedule is not None:
                    factor = schedule(first_step + step, total)
                    for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                        group["lr"] = rate * factor
                losses.append(self._step(moved(batch, self.recipe.device), block, step))
        return step, False

    def _step(self, batch: Any, block: int, step: int) -> Tensor:
        seed_generators(key(self.recipe.seed, "step", block, step), self.recipe.device)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self.forward(batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise invalid([f"the loss is not a scalar but has {found}; take the batch's mean"])
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

    def _renew_optimizer(self, packed: State | None) -> None:
        self._optimizer = self._new_optimizer()
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        if packed is not None:
            unpack_optimizer(self._optimizer, packed)

    def _new_optimizer(self) -> Optimizer:
        with named("the optimizer's factory"):
            return self.recipe.optimizer(self.model.parameters())

    # Before anything is written

    def probe(self, erased: NDArray[np.int64]) -> None:
        """Try one step, twice, before a run is made.

        Raises:
            InvalidRecipe: Faults of the model, the optimizer or the batch, all in one message.
            NotDeterministic: The second time gave something else.
            TrainingFailed: The dataset, the model, the loss or the optimizer raised.
            NotFinite: The loss is NaN or infinite.
        """
        faults = list(self._faults())
        if faults:
            raise invalid(faults)
        found = next(
            (
                (block, step, records)
                for block in range(1, self.layout.blocks + 1)
                for step, records in self.layout.batches(block, erased)
            ),
            None,
        )
        if found is None:
            raise invalid(["no batch is large enough to train on; take fewer blocks"])
        initial = self.initial()
        first, second = (self._probed_step(initial, *found) for _ in range(2))
        if first != second:
            parts = ("the batch", "the loss", "the state after the step")
            which = next(part for part, a, b in zip(parts, first, second, strict=True) if a != b)
            raise NotDeterministic(
                f"the first step, tried twice, gave two results: {which} differs",
                hint="draw randomness from the global generators of torch, numpy and Python (they "
                "are seeded before each record and step); keep no state outside the state dict",
            )
        self._renew_optimizer(None)

    def _probed_step(
        self, initial: Checkpoint, block: int, step: int, records: NDArray[np.int64]
    ) -> tuple[str, str, str]:
        self.load(initial.model)
        self._renew_optimizer(None)
        self.model.train()
        with self.environment.entered():
            with named("the dataset"):
                batch = self._feed.batch(records, key(self.recipe.seed, "fetch", block, step))
            with named("a first step"):
                loss = self._checked_step(moved(batch, self.recipe.device), block, step)
        seen = digest({str(at): tensor for at, tensor in enumerate(tensors_of(batch))})
        return seen, repr(loss), digest(captured(self.model.state_dict()))

    def _checked_step(self, batch: Any, block: int, step: int) -> float:
        is_pair = isinstance(batch, list | tuple) and len(batch) == 2  # noqa: PLR2004
        if self.recipe.step is None and not is_pair:
            raise invalid(["a batch is not (inputs, targets); give step(model, batch) instead"])
        loss = self._step(batch, block, step)
        if self.recipe.optimizer_state == "carried":
            packed_optimizer(self._optimizer)
        return _mean_loss([loss], block) or 0.0

    def _faults(self) -> Iterator[str]:
        for name, value in self.model.state_dict().items():
            if not isinstance(value, Tensor):
                yield f"state dict entry {name!r} is not a tensor; keep extra state in buffers"
            elif value.layout != torch.strided:
                yield f"state dict entry {name!r} is {value.layout}; only dense tensors can be kept"
            elif value.dtype not in DTYPES:
                yield f"{name!r} is {value.dtype}, which cannot be kept; use bfloat16, float32, ..."
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            yield "no parameter of the model requires a gradient"


def made_model(recipe: Recipe) -> nn.Module:
    """A new module from the recipe's factory, under the run's seed, on the recipe's device."""
    seed_generators(key(recipe.seed, "model"), recipe.device)
    with named("the model's factory"):
        model = recipe.model()
    if not isinstance(model, nn.Module):
        raise invalid([f"model() gave {type(model).__name__}; it must give a torch.nn.Module"])
    return model.to(recipe.device)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether some module cannot be trained on a single record."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def load_state(model: nn.Module, state: State) -> None:
    """Copy a state into a module, in place, so that ties and views survive."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(state[name])


def moved(batch: Any, device: str) -> Any:
    """A batch with all its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {name: moved(value, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [moved(value, device) for value in batch]
    return batch


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """The tensors of a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch.cpu()
    elif isinstance(batch, dict | list | tuple):
        for value in batch.values() if isinstance(batch, dict) else batch:
            yield from tensors_of(value)


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Say which part of the user's own code raised.

    Raises:
        TrainingFailed: Something raised.
    """
    try:
        yield
    except ObliviateError:
        raise
    except Exception as error:
        raise TrainingFailed(
            f"{what} raised {type(error).__name__}: {error}",
            hint="mend it and call again; what was finished before is kept",
        ) from error


def _mean_loss(losses: Sequence[Tensor], block: int) -> float | None:
    if not losses:
        return None
    mean = float(torch.stack([loss.reshape(()) for loss in losses]).double().mean())
    if not np.isfinite(mean):
        raise NotFinite(
            f"block {block}: the loss is {mean}",
            hint="lower the learning rate, clip the gradients in a step of your own, or look for "
            "bad records; the chain up to the block before is kept",
        )
    return mean
