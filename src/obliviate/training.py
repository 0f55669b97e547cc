"""Training, block by block: (state, block) -> state, the same bits every time.

A state depends on the recipe, the seed, the data of the retained records and the block number
alone. Before every step all generators are seeded from (seed, block, step), so that the randomness
of later steps does not shift when a record disappears.
"""

from __future__ import annotations

import contextlib
import copy
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from obliviate.blocks import Layout, key
from obliviate.environment import Environment, seed_generators
from obliviate.errors import (
    NotFinite,
    ObliviateError,
    RunLocked,
    TrainingFailed,
)
from obliviate.feed import content_of, feed_of
from obliviate.hidden import Hidden
from obliviate.moments import packed_optimizer, unpack_optimizer
from obliviate.progress import Event
from obliviate.recipe import invalid
from obliviate.state import captured, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

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
        buffers: Names of what no optimizer makes; see `buffer_names`.
    """

    def __init__(self, recipe: Recipe, data: Dataset[Any], layout: Layout, threads: int) -> None:
        self.recipe, self.layout = recipe, layout
        self._feed: Feed = feed_of(data, recipe.workers)
        self._is_busy = False
        self.environment = Environment(recipe.device, threads)
        with self.environment.entered():
            self.model = made_model(recipe)
        # a loss that is a module may change in training; the recipe's own stays as it is
        loss = recipe.loss
        if isinstance(loss, nn.Module):
            loss = copy.deepcopy(loss).to(recipe.device)
        self._loss: Callable[[Any, Any], Tensor] | None = loss
        self._hidden = Hidden(self.model, self._loss)
        self._optimizer = self._new_optimizer()
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self.parameters = frozenset(name for name, _ in self.model.named_parameters())
        self.buffers = buffer_names(self.model)

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
            NotFinite: The loss of a block, or a parameter after it, is NaN or infinite.
            TrainingFailed: The dataset, the model, the loss or the optimizer raised.
            RunLocked: Another call is training with this trainer, and has not come to its end.
        """
        if self._is_busy:
            raise RunLocked(
                "another call on this very run is in the middle of training",
                hint="let it come to its end first, or open the run once more with load",
            )
        self._is_busy = True
        try:
            self.load(start.model)
            packed = start.optimizer
            del start  # a state is large; nobody may need this one any more
            for block in blocks:
                # whatever is not in the checkpoint starts anew, here as in every replay
                self._hidden.put_back()
                self._renew_optimizer(packed)
                trained = yield from self._train_block(block, erased)
                packed = trained.checkpoint.optimizer
                yield trained
        finally:
            self._is_busy = False

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
        assert self._loss is not None  # noqa: S101 - the recipe saw to it
        return self._loss(self.model(inputs), targets)

    def _train_block(
        self, block: int, erased: NDArray[np.int64]
    ) -> Generator[Event, None, Trained]:
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
        state = captured(self.model.state_dict())
        self._check_finite(state, block)
        return Trained(
            block=block,
            checkpoint=Checkpoint(
                model=state,
                optimizer=None if optimizer is None else packed_optimizer(optimizer),
            ),
            loss=loss,
            seconds=time.perf_counter() - started,
        )

    def _check_finite(self, state: State, block: int) -> None:
        for name in sorted(self.parameters):
            # the largest magnitude tells, and needs no second tensor beside a large one
            tensor = state[name]
            if tensor.numel() and not torch.linalg.vector_norm(tensor, float("inf")).isfinite():
                raise not_finite(f"block {block}: parameter {name!r} is no longer finite")

    def _spurt(
        self, block: int, feed: Iterator[tuple[int, Any]], losses: list[Tensor]
    ) -> tuple[int, bool]:
        """Make steps until some time has gone by; return the last step and whether all is done."""
        until, step = time.perf_counter() + SECONDS_BETWEEN_EVENTS, 0
        first_step, total = self.layout.first_step(block), self.layout.total_steps(block)
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

    def try_step(
        self, start: Checkpoint, block: int, step: int, records: NDArray[np.int64]
    ) -> tuple[str, str, str]:
        """Make one step from a checkpoint, as training would; return what came of it.

        Returns:
            A hash of the batch, the loss in digits, and the digest of the state.

        Raises:
            InvalidRecipe: The batch, the loss or the optimizer's state cannot be used.
            TrainingFailed, NotFinite: See `train`.
        """
        self.load(start.model)
        self._hidden.put_back()
        self._renew_optimizer(None)
        self.model.train()
        with self.environment.entered():
            with named("the dataset"):
                batch = self._feed.batch(records, key(self.recipe.seed, "fetch", block, step))
            with named("a first step"):
                loss = self._checked_step(moved(batch, self.recipe.device), block, step)
        seen = sha256()
        for piece in content_of(batch):
            seen.update(piece)
        return seen.hexdigest(), repr(loss), digest(captured(self.model.state_dict()))

    def _checked_step(self, batch: Any, block: int, step: int) -> float:
        is_pair = isinstance(batch, list | tuple) and len(batch) == 2  # noqa: PLR2004
        if self.recipe.step is None and not is_pair:
            raise invalid(["a batch is not (inputs, targets); give step(model, batch) instead"])
        loss = self._step(batch, block, step)
        if self.recipe.optimizer_state == "carried":
            packed_optimizer(self._optimizer)
        return _mean_loss([loss], block) or 0.0


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


def buffer_names(model: nn.Module) -> frozenset[str]:
    """Names of a state's entries that are no parameters, such as running variances and codebooks.

    Integers without dimensions are not among them: they count steps.
    """
    trained = {parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}
    return frozenset(
        name
        for name, entry in model.state_dict(keep_vars=True).items()
        if not (isinstance(entry, nn.Parameter) or entry.data_ptr() in trained)
        and (entry.ndim or entry.is_floating_point() or entry.is_complex())
    )


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
        values = [moved(value, device) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else values
    return batch


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
        raise not_finite(f"block {block}: the loss is {mean}")
    return mean


def not_finite(message: str) -> NotFinite:
    """The error of a training that went astray."""
    return NotFinite(
        message,
        hint="lower the learning rate, take an optimizer that clips gradients, or look for bad "
        "records; the chain up to the block before is kept",
    )
