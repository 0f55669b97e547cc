"""Onward: training on the blocks of a chain that are still to come."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from obliviate.chain.bridge import bridging
from obliviate.errors import NothingLearned
from obliviate.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.chain.chain import Chain
    from obliviate.ledger import Entry
    from obliviate.ledger.facts import Guarantee
    from obliviate.states.update import State
    from obliviate.training.protocol import BlockTrainer, Trained

    Commit = Callable[[Entry, bytes], None]


def training_on(
    chain: Chain,
    trainer: BlockTrainer,
    erased: NDArray[np.int64],
    *,
    guarantee: Guarantee,
    commit_first: Commit | None = None,
) -> Generator[Event, None, None]:
    """Train on the blocks behind the last one of a chain; under the lease.

    Args:
        chain: The chain; every block is committed as it comes.
        trainer: What to train with.
        erased: Sorted ids of the records to leave out.
        guarantee: What is promised of the new blocks.
        commit_first: What writes the first of them down, with whatever is to come true with it.
    """
    blocks = range(chain.length + 1, chain.blocks + 1)
    chain.initial_hashes  # noqa: B018 - before there are other states in memory
    start = yield from bridging(chain, trainer, chain.length, erased)
    previous, training = start.model, trainer.train(start, blocks, erased)
    del start
    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        finished = chain.length
        for item in training:
            if isinstance(item, Event):
                yield replace(item, task="fit", done=finished + item.done, total=chain.blocks)
                continue
            if written is not None:
                written.result()  # one at a time; and it may still need the previous state
            commit = commit_first if item.block == blocks.start else None
            append = partial(chain.append, guarantee=guarantee, commit=commit)
            written = chain.aside(
                writer, previous, _append, append, trainer.parameters, item, previous
            )
            previous, finished = item.checkpoint.model, item.block
            yield Event(
                task="fit", done=finished, total=chain.blocks, block=item.block, loss=item.loss
            )
        if written is not None:
            written.result()


def _append(
    append: Callable[[Trained, State], set[str]],
    learned: frozenset[str],
    trained: Trained,
    previous: State,
) -> None:
    """`Chain.append` in another thread, whatever mode the caller has made its states in."""
    with torch.inference_mode():
        changed = append(trained, previous)
    if trained.is_learning and not changed & learned:
        warnings.warn(
            f"block {trained.block} was trained on, and changed no parameter. An optimizer that "
            "gathers gradients over several calls begins anew in every block: gather them within "
            "the step instead, or take fewer blocks",
            NothingLearned,
            stacklevel=2,
        )
