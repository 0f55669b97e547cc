"""The contract of whatever trains: (state, block) -> state, the same bits every time.

What chains, erasures, methods and runs may know of a trainer stands here, and nothing else.
`obliviate.testing.TrainerContract` tests one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from obliviate.events import Event
from obliviate.recipe.contents import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from obliviate.recipe.contents import Hashes
    from obliviate.recipe.recipe import Recipe
    from obliviate.states.update import State
    from obliviate.training.determinism import Environment
    from obliviate.training.layout import Layout, Microbatch
    from obliviate.training.optimizer import ScheduledOptimizer
    from obliviate.training.reader import Reader


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What training needs to go on after a block.

    Attributes:
        model: The state dict, but for what is frozen.
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
        contents: What its records are; see `obliviate.recipe.contents`.
        is_learning: Whether steps were made with a learning rate above 0: then some parameter has
            to be another afterwards.
    """

    block: int
    checkpoint: Checkpoint
    loss: float | None
    seconds: float
    contents: Hashes = field(default_factory=lambda: NOTHING)
    is_learning: bool = False


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of a few steps that are no part of training.

    Attributes:
        batches: A hash of the batches.
        losses: The losses, in digits.
        state: The digest of the state after them.
        unused: Optimizers that made no step with a gradient, where there are several.
    """

    batches: str
    losses: str
    state: str
    unused: tuple[str, ...] = ()


class BlockTrainer(Protocol):
    """Trains on blocks of one dataset by one recipe.

    A state depends on the recipe, the data of the retained records and the block number alone:
    neither on what the trainer did before nor on the generators of the process.

    Attributes:
        recipe: How to train.
        layout: Which record is trained on where.
        environment: The process-wide settings that bits depend on.
        reader: Reads the records.
        model: The live module, on the recipe's device; whoever uses it loads a state first.
    """

    recipe: Recipe
    layout: Layout
    environment: Environment
    reader: Reader
    model: nn.Module

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters, tied ones once: what residual memory is measured on."""
        ...

    @property
    def buffers(self) -> frozenset[str]:
        """Names of what no optimizer makes; see `buffer_names`."""
        ...

    def initial(self) -> Checkpoint:
        """The state before block 1."""
        ...

    def new_module(self) -> nn.Module:
        """A new module by the recipe, in memory of its own; whoever uses it loads a state.

        Raises:
            InvalidRecipe: The recipe's factory gives parts of the live one again.
            NotDeterministic: It gives another frozen base each time.
        """
        ...

    def spare_module(self) -> nn.Module:
        """One to look at states with, beside the live one; whoever uses it loads a state.

        The next one who asks may be given the same one, as it was when it was new.
        """
        ...

    def train(
        self, start: Checkpoint, blocks: Iterable[int], erased: NDArray[np.int64]
    ) -> Iterator[Event | Trained]:
        """Train on block after block, from a checkpoint, without the erased records.

        A block that holds nobody else any more changes nothing; the schedule goes on all the same.

        Args:
            start: The state before the first of the blocks. Its tensors stay as they are.
            blocks: Their numbers, ascending without a gap.
            erased: Sorted ids. They are never asked of the dataset.

        Yields:
            Each block as `Trained`; in between, for long blocks, how far the block has come, and
            for large states that it has come to its end, before a copy is taken.

        Raises:
            NotFinite: The loss of a block, or a parameter after it, is NaN or infinite.
            TrainingFailed: The dataset, the model, the loss or the optimizer raised.
            RunLocked: Another call is training with this trainer, and has not come to its end.
        """
        ...

    def forward(self, batch: Any) -> Tensor | None:
        """The loss of a batch under the live module; None where there is nothing to learn."""
        ...

    def optimizer(self, packed: State | None) -> ScheduledOptimizer:
        """What does to entries without a gradient what training does, as it is before a block.

        Args:
            packed: The optimizer's state in the checkpoint before the block.
        """
        ...

    def fingerprint(self) -> dict[str, str]:
        """What must not change between the making of a run and its later use, in words."""
        ...

    def try_steps(self, start: Checkpoint, block: int, microbatches: Sequence[Microbatch]) -> Tried:
        """Make some steps from a checkpoint, as training would; return what came of them.

        Args:
            start: The state before the first of them.
            block: The block that they belong to.
            microbatches: Those of all the steps, in order.

        Raises:
            InvalidRecipe: The batch, the loss or the optimizer's state cannot be used.
            TrainingFailed, NotFinite: See `train`.
        """
        ...


def training_over(
    trainer: BlockTrainer,
    start: Checkpoint,
    blocks: range,
    erased: NDArray[np.int64],
    *,
    task: str,
    check: Callable[[Trained], None] | None = None,
) -> Generator[Event, None, Checkpoint]:
    """The checkpoint after some blocks, of which nothing is kept.

    Args:
        trainer: What to train with.
        start: The checkpoint before the first of them.
        blocks: Their numbers.
        erased: Sorted ids of records to leave out.
        task: What its events call it.
        check: Looks at each block; what it raises ends the training.
    """
    finished, total = 0, len(blocks)
    for item in trainer.train(start, blocks, erased):
        if isinstance(item, Event):
            yield replace(item, task=task, done=finished + item.done, total=total)
            continue
        if check is not None:
            check(item)
        start, finished = item.checkpoint, finished + 1
        yield Event(task=task, done=finished, total=total, block=item.block, loss=item.loss)
    return start


def trained_block(
    trainer: BlockTrainer, block: int, before: Callable[[], Checkpoint], erased: NDArray[np.int64]
) -> Trained:
    """Train one block; block 0 is the initial state.

    Args:
        trainer: What to train with.
        block: Its number.
        before: Gives the checkpoint before it. A state is large: nobody but the trainer holds it
            then.
        erased: Sorted ids of erased records.

    Raises:
        NotFinite, TrainingFailed, RunLocked: See `BlockTrainer.train`.
    """
    if block == 0:
        return Trained(block=0, checkpoint=trainer.initial(), loss=None, seconds=0.0)
    *_, trained = trainer.train(before(), [block], erased)
    assert not isinstance(trained, Event)  # noqa: S101 - the last item is the block
    return trained
