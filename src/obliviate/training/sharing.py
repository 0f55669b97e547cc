"""Sharing: one training, from a checkpoint on, that all ranks take part in.

Rank 0 tells the others the checkpoint, then the number of each block as it is asked for it. Each of
them trains on its own microbatches and makes the same steps. What goes wrong on one is told with
the next exchange, and raised by all. After every block their states are compared.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from blake3 import blake3

from obliviate.errors import NotDeterministic, ObliviateError, RankLost
from obliviate.recipe.contents import NOTHING
from obliviate.states.update import raw_bytes
from obliviate.training.batches import Fetched
from obliviate.training.protocol import Checkpoint
from obliviate.training.ranks import called
from obliviate.training.step import by_step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from obliviate.recipe.contents import Hashes
    from obliviate.recipe.recipe import Recipe
    from obliviate.states.update import State
    from obliviate.training.exchange import Exchange
    from obliviate.training.layout import Layout, Microbatch
    from obliviate.training.messages import Message
    from obliviate.training.protocol import Trained
    from obliviate.training.ranks import Ranks
    from obliviate.training.reader import Reader
    from obliviate.training.step import Step

TRAIN = "train"
"""What rank 0 says before a training."""

_BLOCK, _MODEL, _OPTIMIZER, _ERASED = "block", "model/", "optimizer/", "erased"


class Sharing(Protocol):
    """How a training is shared; alone, not at all."""

    def begin(self, step: Step, batches: int = 0) -> None:
        """The model has the state of the checkpoint.

        Args:
            step: What makes the steps.
            batches: How many come outside of any block.
        """
        ...

    def blocks(self, blocks: Iterable[int]) -> Iterator[int]:
        """The blocks that are trained on, one after the other."""
        ...

    def batches(
        self, reader: Reader, block: int, erased: NDArray[np.int64], contents: Hashes
    ) -> Iterator[list[Fetched]]:
        """The microbatches of each step of a block; of those that other ranks read, the places."""
        ...

    def attempt(self) -> contextlib.AbstractContextManager[None]:
        """Let all ranks know of what is raised meanwhile."""
        ...

    def agreed(self, trained: Trained) -> Trained:
        """A block that all ranks have come to the end of."""
        ...

    def close(self) -> None:
        """No more blocks are asked for."""
        ...


class Alone:
    """Training in one process."""

    def begin(self, step: Step, batches: int = 0) -> None:  # noqa: ARG002
        """See `Sharing`."""
        step.alone()

    def blocks(self, blocks: Iterable[int]) -> Iterator[int]:
        """See `Sharing`."""
        return iter(blocks)

    def batches(
        self, reader: Reader, block: int, erased: NDArray[np.int64], contents: Hashes
    ) -> Iterator[list[Fetched]]:
        """See `Sharing`."""
        return by_step(reader.batches(block, erased, contents))

    def attempt(self) -> contextlib.AbstractContextManager[None]:
        """See `Sharing`."""
        return contextlib.nullcontext()

    def agreed(self, trained: Trained) -> Trained:
        """See `Sharing`."""
        return trained

    def close(self) -> None:
        """See `Sharing`."""


ALONE: Sharing = Alone()


class Shared:
    """Training on several ranks."""

    def __init__(
        self, ranks: Ranks, recipe: Recipe, layout: Layout, erased: NDArray[np.int64]
    ) -> None:
        """Begin; all ranks do."""
        self._ranks, self._recipe, self._layout, self._erased = ranks, recipe, layout, erased
        self._exchange: Exchange | None = None
        self._block: int | None = None
        self._planned: list[Microbatch] = []
        self._is_over = False

    def begin(self, step: Step, batches: int = 0) -> None:
        """See `Sharing`."""
        with self.attempt():
            self._exchange = exchange = step.share(self._ranks)
            exchange.left = batches
        self._agree()
        self._ranks.use(self._recipe.device)

    def _agree(self, *told: Any) -> list[Message]:
        try:
            return self._ranks.agree(None, *told)
        except Exception:
            self._is_over = True
            raise

    def blocks(self, blocks: Iterable[int]) -> Iterator[int]:
        """See `Sharing`; those who follow hear of them."""
        if not self._ranks.is_leader:
            while (block := self._ranks.take(0).words[_BLOCK]) is not None:
                yield self._begun(block)
            self._is_over = True
            return
        for block in blocks:
            self._ranks.say({_BLOCK: block})
            yield self._begun(block)
        self.close()

    def _begun(self, block: int) -> int:
        assert self._exchange is not None  # noqa: S101 - the training has begun
        self._block, self._planned = block, list(self._layout.microbatches(block, self._erased))
        self._exchange.left = len({each.step for each in self._planned})
        return block

    def batches(
        self, reader: Reader, block: int, erased: NDArray[np.int64], contents: Hashes
    ) -> Iterator[list[Fetched]]:
        """See `Sharing`."""
        assert self._exchange is not None  # noqa: S101 - the training has begun
        own = self._exchange.own
        fetched = reader.batches(block, erased, contents, numbers=own)
        return by_step(
            next(fetched)
            if each.number in own
            else Fetched(microbatch=each, batch=None, hashes=NOTHING)
            for each in self._planned
        )

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """See `Sharing`."""
        try:
            yield
        except RankLost:
            self._is_over = True
            raise
        except Exception as error:
            self._tell(error)
            raise

    def _tell(self, error: Exception) -> None:
        """Let all ranks raise what went wrong on this one, if they do not yet.

        Raises:
            ObliviateError: It, or what went wrong on a rank before this one.
        """
        if self._is_over:
            return
        self._is_over = True
        if self._exchange is not None:
            if self._exchange.is_told:
                return
            self._exchange.fail()
        self._ranks.agree(error)

    def agreed(self, trained: Trained) -> Trained:
        """See `Sharing`.

        Raises:
            NotDeterministic: The ranks ended in different states.
        """
        contents = trained.contents
        tensors = {"contents": torch.from_numpy(contents.view(np.int32))}
        state = _digest(trained.checkpoint)
        told = self._agree({"state": state}, tensors, self._differing)
        self._ranks.finished, self._block = self._block, None
        for each in told[1:]:
            contents = contents | each.tensors["contents"].numpy().view(np.uint32)
        return replace(trained, contents=contents)

    def _differing(self, told: Sequence[Message]) -> ObliviateError | None:
        first = told[0].words["state"]
        others = [rank for rank, each in enumerate(told) if each.words["state"] != first]
        if not others:
            return None
        return NotDeterministic(
            f"block {self._block}: rank {others[0]} ended in another state than rank 0",
            hint="all ranks need the same hardware and libraries; draw randomness from the global "
            "generators alone, and keep what a module counts in buffers",
        )

    def close(self) -> None:
        """See `Sharing`; in the middle of a block, all ranks give it up."""
        if self._is_over or self._ranks.is_lost:
            return
        if self._block is not None:
            with contextlib.suppress(ObliviateError):
                self._tell(ObliviateError("training was stopped in the middle of a block"))
        elif self._ranks.is_leader:
            self._is_over = True
            self._ranks.say({_BLOCK: None})


def sharing_of(
    recipe: Recipe, layout: Layout, start: Checkpoint, erased: NDArray[np.int64]
) -> Sharing:
    """How a training is shared: with all ranks, where they were called for it."""
    ranks = called()
    if ranks is None or ranks.is_apart:
        return ALONE
    if ranks.is_leader:
        ranks.close()
        ranks.say({"do": TRAIN, "parts": len(layout.parts)}, _packed(start, erased))
    ranks.sharing = Shared(ranks, recipe, layout, erased)
    return ranks.sharing


def start_of(message: Message) -> tuple[Checkpoint, NDArray[np.int64]]:
    """The checkpoint that a training begins with, and whom it leaves out, as rank 0 told them."""
    tensors = dict(message.tensors)
    erased = tensors.pop(_ERASED).numpy()
    model = _without(_MODEL, tensors)
    optimizer = _without(_OPTIMIZER, tensors)
    return Checkpoint(model=model, optimizer=optimizer or None), erased


def _packed(start: Checkpoint, erased: NDArray[np.int64]) -> State:
    optimizer = start.optimizer or {}
    return (
        {_MODEL + name: each for name, each in start.model.items()}
        | {_OPTIMIZER + name: each for name, each in optimizer.items()}
        | {_ERASED: torch.from_numpy(np.ascontiguousarray(erased, dtype=np.int64).copy())}
    )


def _without(prefix: str, tensors: State) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)
    }


def _digest(checkpoint: Checkpoint) -> str:
    hasher = blake3()
    for state in (checkpoint.model, checkpoint.optimizer or {}):
        for name in sorted(state):
            hasher.update(name.encode())
            hasher.update(raw_bytes(state[name]))
    return str(hasher.hexdigest())
