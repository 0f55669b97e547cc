"""A second trainer: softmax regression whose gradient and update rule are written out by hand."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from obliviate.recipe.recipe import Recipe
from obliviate.states.update import captured, digest
from obliviate.training.batches import moved
from obliviate.training.collation import content_of
from obliviate.training.determinism import Environment
from obliviate.training.model import (
    another_model,
    buffer_names,
    load_state,
    made_model,
    parameter_names,
)
from obliviate.training.optimizer import ScheduledOptimizer
from obliviate.training.protocol import Checkpoint, Trained, Tried
from obliviate.training.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch.utils.data import Dataset

    from obliviate.states.update import State
    from obliviate.training.layout import Layout, Microbatch

RATE = 0.05
_MODEL = partial(nn.Linear, 4, 3)
_NO_OPTIMIZER = partial(torch.optim.SGD, lr=0.0)


class LinearTrainer:
    """Trains an `nn.Linear` by the signs of the gradient, in ever smaller steps.

    It uses neither the recipe's loss nor autograd; what it counts, the optimizer's state, is
    carried from block to block where the recipe says so.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset[Any],
        layout: Layout,
        environment: Mapping[str, str],
        content_key: bytes | None = None,
    ) -> None:
        self.recipe, self.layout = recipe, layout
        self.environment = Environment.of(recipe.device, environment)
        self.reader = Reader(recipe, data, layout, self.environment, content_key)
        with self.environment.entered():
            self.model = made_model(recipe)
        self.parameters, self.buffers = parameter_names(self.model), buffer_names(self.model)

    def initial(self) -> Checkpoint:
        """The state before block 1."""
        with self.environment.entered():
            return Checkpoint(model=captured(made_model(self.recipe).state_dict()))

    def new_module(self) -> nn.Module:
        """See `BlockTrainer.new_module`."""
        with self.environment.entered():
            return another_model(self.recipe, self.model)

    spare_module = new_module

    def fingerprint(self) -> dict[str, str]:
        """What the trainer is, the form of its model, and the recipe's numbers."""
        recipe = self.recipe
        numbers = (recipe.seed, recipe.batch_size, recipe.repeats, recipe.optimizer_state)
        return {"trainer": "signs", "model": repr(self.model), "numbers": repr(numbers)}

    def train(
        self, start: Checkpoint, blocks: Iterable[int], erased: NDArray[np.int64]
    ) -> Iterator[Trained]:
        """See `BlockTrainer.train`."""
        load_state(self.model, start.model)
        packed = start.optimizer
        for block in blocks:
            started, contents = time.perf_counter(), self.reader.unhashed(block)
            count = 0 if packed is None else int(packed["steps"])
            losses = []
            with self.environment.entered():
                for fetched in self.reader.batches(block, erased, contents):
                    count += 1
                    losses.append(self._step(moved(fetched.batch, self.recipe.device), count))
            if self.recipe.optimizer_state == "carried":
                packed = {"steps": torch.tensor(count)}
            yield Trained(
                block=block,
                checkpoint=Checkpoint(model=captured(self.model.state_dict()), optimizer=packed),
                loss=sum(losses) / len(losses) if losses else None,
                seconds=time.perf_counter() - started,
                contents=contents,
                is_learning=bool(losses),
            )

    def _step(self, batch: Any, count: int) -> float:
        inputs, targets = batch
        weight, bias = self._tensors()
        shares = (inputs @ weight.T + bias).softmax(dim=1)
        slopes = (shares - nn.functional.one_hot(targets, len(bias))) / len(inputs)
        weight -= RATE / count**0.5 * (slopes.T @ inputs).sign()
        bias -= RATE / count**0.5 * slopes.sum(dim=0).sign()
        return float(-shares.gather(1, targets[:, None]).log().mean())

    def _tensors(self) -> tuple[Tensor, Tensor]:
        state = self.model.state_dict()
        return state["weight"], state["bias"]

    def forward(self, batch: Any) -> Tensor | None:
        """The mean cross entropy of a batch."""
        inputs, targets = batch
        weight, bias = self._tensors()
        return nn.functional.cross_entropy(inputs @ weight.T + bias, targets)

    def optimizer(self, packed: State | None) -> ScheduledOptimizer:  # noqa: ARG002
        """The sign of no gradient is 0: entries without one stay as they are."""
        return ScheduledOptimizer(self.recipe, self.model)

    def try_steps(self, start: Checkpoint, block: int, microbatches: Sequence[Microbatch]) -> Tried:
        """See `BlockTrainer.try_steps`."""
        load_state(self.model, start.model)
        content, losses = sha256(), []
        with self.environment.entered():
            for count, each in enumerate(microbatches, 1):
                batch = self.reader.of_block(block, each)
                for piece in content_of(batch):
                    content.update(piece)
                losses.append(self._step(batch, count))
        state = digest(captured(self.model.state_dict()))
        return Tried(batches=content.hexdigest(), losses=repr(losses), state=state)


@dataclass(frozen=True, kw_only=True)
class LinearRecipe(Recipe):
    """What `LinearTrainer` trains by: four features, three classes."""

    trainer: ClassVar[Callable[..., Any] | None] = LinearTrainer
    model: Callable[[], nn.Module] = _MODEL
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = _NO_OPTIMIZER
    loss: Callable[[Any, Any], Tensor] | None = nn.functional.cross_entropy
