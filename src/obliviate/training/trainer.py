"""Training, block by block: (state, block) -> state, the same bits every time.

A state depends on the recipe, the seed, the data of the retained records and the block number
alone. Before every step all generators are seeded from (seed, block, step), so that the randomness
of later steps does not shift when a record disappears.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from obliviate.errors import NotFinite, RunLocked
from obliviate.events import Event
from obliviate.recipe.contents import NOTHING
from obliviate.recipe.recipe import invalid
from obliviate.recipe.user_code import named
from obliviate.states.memory import Memory
from obliviate.states.update import LARGE_BYTES, digest, size_bytes
from obliviate.training.batches import Fetched
from obliviate.training.collation import content_of
from obliviate.training.determinism import Environment
from obliviate.training.live import Live
from obliviate.training.model import load_state
from obliviate.training.optimizer import ScheduledOptimizer, rates_of
from obliviate.training.protocol import Checkpoint, Trained, Tried
from obliviate.training.reader import Reader
from obliviate.training.sharing import ALONE, sharing_of
from obliviate.training.step import Step, by_step

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Collection,
        Generator,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from torch import nn
    from torch.utils.data import Dataset

    from obliviate.recipe.contents import Hashes
    from obliviate.recipe.recipe import Recipe
    from obliviate.states.update import State
    from obliviate.training.layout import Layout, Microbatch
    from obliviate.training.sharing import Sharing

SECONDS_BETWEEN_EVENTS = 0.2


class Trainer:
    """Trains on blocks of one dataset by one recipe.

    Attributes:
        model: The live module, on the recipe's device.
        environment: The process-wide settings that bits depend on.
        around_step: Entered around every step of `train`, with its batch, by whoever looks on.
    """

    around_step: Callable[[Sequence[Fetched]], AbstractContextManager[object]] = nullcontext

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset[Any],
        layout: Layout,
        environment: Mapping[str, str],
        content_key: bytes | None = None,
        *,
        model: nn.Module | None = None,
        moving: Collection[str] = (),
        before: Trainer | None = None,
    ) -> None:
        """Make a model, or take one over.

        Args:
            recipe: How to train.
            data: On what.
            layout: Which record is trained on where.
            environment: In what environment; see `environment_facts`.
            content_key: What the records are hashed under while they are trained on; they are not
                if None.
            model: A new one from the recipe's factory; one is made if None.
            moving: See `Base`; what the first steps showed when the run was made.
            before: A trainer by the same recipe, whose model is taken over: both may train it, in
                turn, for each begins from a checkpoint.
        """
        self.recipe, self.layout = recipe, layout
        self._is_large = False
        self.environment = Environment.of(recipe.device, environment)
        self.reader = Reader(recipe, data, layout, self.environment, content_key)
        if before is None:
            self._live = Live(recipe, self.environment, model=model, moving=moving)
        else:
            self._live = before._live
        self.model = self._live.model
        self._step = Step(recipe, self.model, self._live.loss)
        self._rates = rates_of(recipe, self.model)
        self._optimizer = self.optimizer(None)

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters, tied ones once: what residual memory is measured on."""
        return self._live.parameters

    @property
    def buffers(self) -> frozenset[str]:
        """Names of what no optimizer makes; see `buffer_names`."""
        return self._live.buffers

    def initial(self) -> Checkpoint:
        """The state before block 1."""
        return Checkpoint(model=self._live.initial())

    def new_module(self) -> nn.Module:
        """See `BlockTrainer.new_module`."""
        return self._live.new_module()

    def spare_module(self) -> nn.Module:
        """See `BlockTrainer.spare_module`."""
        return self._live.spare_module()

    def fingerprint(self) -> dict[str, str]:
        """The recipe in comparable words; see `Recipe.fingerprint`."""
        with self.environment.entered(), named("the schedule"):
            rates = self._rates.words(self.layout.total_steps(1))
            words = self.recipe.fingerprint(self.model, self.optimizer(None).optimizers, rates)
            return words | self._live.base.words()

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
        if self._live.memory is not None:
            raise RunLocked(
                "another call on this very run is in the middle of training",
                hint="let it come to its end first, or open the run once more with load",
            )
        self._live.memory, sharing = Memory(), ALONE
        try:
            sharing = sharing_of(self.recipe, self.layout, start, erased)
            with sharing.attempt():
                load_state(self.model, start.model)
                self._step.leave_alone(self._live.base.names)
                self._live.put_back()  # room is made for buffers as they are in a new module
                packed, self._is_large = start.optimizer, size_bytes(start.model) > LARGE_BYTES
            del start  # a state is large; nobody may need this one any more
            sharing.begin(self._step)
            for block in sharing.blocks(blocks):
                with sharing.attempt():
                    # whatever is not in the checkpoint starts anew, here as in every replay
                    self._live.put_back()
                    self._optimizer, packed = self.optimizer(packed), None
                    self.model.train()
                trained = yield from self._train_block(block, erased, sharing)
                packed = trained.checkpoint.optimizer
                yield trained
                del trained  # its moments are in the optimizer from now on
        finally:
            self._live.memory = None
            sharing.close()

    def forward(self, batch: Any) -> Tensor | None:
        """The loss of a batch under the live module; None where there is nothing to learn."""
        return self._step.forward(batch)

    def _train_block(
        self, block: int, erased: NDArray[np.int64], sharing: Sharing
    ) -> Generator[Event, None, Trained]:
        started, losses = time.perf_counter(), list[Tensor]()
        contents = self.reader.unhashed(block)
        feed = sharing.batches(self.reader, block, erased, contents)
        is_over = False
        while not is_over:
            with sharing.attempt(), self.environment.entered():
                done, is_over = self._spurt(block, feed, losses)
            if not is_over:
                yield Event(
                    task="block", done=done / self.layout.steps(block), total=1, block=block
                )
        with sharing.attempt():
            loss = _mean_loss(losses, block, self.recipe)
            self._live.check_thawed(block)
        if self._is_large:  # whoever holds on to earlier ones can let go of them first
            yield Event(task="block", done=1, total=1, block=block)
        with sharing.attempt():
            trained = self._finished(block, loss, contents)
        return sharing.agreed(replace(trained, seconds=time.perf_counter() - started))

    def _finished(self, block: int, loss: float | None, contents: Hashes) -> Trained:
        is_learning = loss is not None and self._optimizer.is_learning  # before rates are put back
        packed = self._optimizer.packed()  # lets go of gradients, before the state is copied
        state = self._live.state(block)
        self._check_finite(state, block)
        return Trained(
            block=block,
            checkpoint=Checkpoint(model=state, optimizer=packed),
            loss=loss,
            seconds=0.0,
            contents=contents,
            is_learning=is_learning,
        )

    def _check_finite(self, state: State, block: int) -> None:
        for name in sorted(self.parameters):
            # the largest magnitude tells, and needs no second tensor beside a large one
            tensor = state[name]
            if tensor.numel() and not torch.linalg.vector_norm(tensor, float("inf")).isfinite():
                raise not_finite(f"block {block}: parameter {name!r} is no longer finite")

    def _spurt(
        self, block: int, feed: Iterator[list[Fetched]], losses: list[Tensor]
    ) -> tuple[int, bool]:
        """Make steps until some time has gone by; return the last step and whether all is done."""
        until, step = time.perf_counter() + SECONDS_BETWEEN_EVENTS, 0
        first_step, total = self.layout.first_step(block), self.layout.total_steps(block)
        while time.perf_counter() < until:
            with named(f"block {block}: the dataset"):
                batch = next(feed, None)
            if batch is None:
                return step, True
            step = batch[0].microbatch.step
            with named(f"block {block}, step {step}: training"):
                self._optimizer.set_rates(first_step + step, total)
                with self.around_step(batch):
                    loss = self._step.make(self._optimizer, block, batch)
                if loss is not None:
                    losses.append(loss)
        return step, False

    def optimizer(self, packed: State | None) -> ScheduledOptimizer:
        """A new optimizer, as it is before a block."""
        return ScheduledOptimizer(self.recipe, self.model, packed, self._rates)

    def try_steps(
        self,
        start: Checkpoint,
        block: int,
        microbatches: Sequence[Microbatch],
        sharing: Sharing = ALONE,
    ) -> Tried:
        """See `BlockTrainer.try_steps`; several ranks may share the steps."""
        with sharing.attempt():
            return self._tried_steps(start, block, microbatches, sharing)

    def _tried_steps(
        self, start: Checkpoint, block: int, microbatches: Sequence[Microbatch], sharing: Sharing
    ) -> Tried:
        load_state(self.model, start.model)
        self._step.leave_alone(self._live.base.names)
        self._live.put_back()
        sharing.begin(self._step, len({each.step for each in microbatches}))
        self._optimizer = self.optimizer(None)
        self.model.train()
        seen, losses, total = sha256(), [], self.layout.total_steps(block)
        with self.environment.entered():
            self._rates.try_all(total)
            for batch in by_step(self._tried(block, microbatches)):
                for piece in content_of([each.batch for each in batch]):
                    seen.update(piece)
                step = self.layout.first_step(block) + batch[0].microbatch.step
                with named("a first step"):
                    self._optimizer.set_rates(step, total)
                    loss = self._step.make(self._optimizer, block, batch)
                if loss is not None:
                    losses.append(_mean_loss([loss], block, self.recipe))
        self._live.check_thawed(block)
        if self.recipe.optimizer_state == "carried":
            self._optimizer.check_carried(self.optimizer(None))
        unused = self._optimizer.unused if losses else ()
        self._optimizer.release()
        return Tried(
            batches=seen.hexdigest(),
            losses=repr(losses),
            state=digest(self._live.tried_state()),
            unused=unused,
        )

    def _tried(self, block: int, microbatches: Iterable[Microbatch]) -> Iterator[Fetched]:
        for each in microbatches:
            batch = self.reader.of_block(block, each)
            self._check_batch(batch)
            yield Fetched(microbatch=each, batch=batch, hashes=NOTHING)

    def _check_batch(self, batch: Any) -> None:
        is_pair = isinstance(batch, list | tuple) and len(batch) == 2  # noqa: PLR2004
        if self.recipe.step is None and not is_pair:
            raise invalid(["a batch is not (inputs, targets); give step(model, batch) instead"])


def _mean_loss(losses: Sequence[Tensor], block: int, recipe: Recipe) -> float | None:
    if not losses:
        return None
    values = torch.stack([loss.reshape(()) for loss in losses]).double()
    if recipe.precision == "fp16" and values.isfinite().any():
        values = values[values.isfinite()]  # of the others, the scaler has skipped the step
    mean = float(values.mean())
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
