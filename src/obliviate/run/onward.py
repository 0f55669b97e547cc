"""Onward: training on the blocks of a chain that are still to come."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from obliviate.chain.bridge import bridging
from obliviate.errors import NothingLearned
from obliviate.events import Event
from obliviate.recipe.contents import packed
from obliviate.states.update import Update, update_between
from obliviate.training.protocol import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.chain.chain import Chain
    from obliviate.ledger import Entry
    from obliviate.ledger.facts import Guarantee
    from obliviate.run.evaluation import Evaluator, Values
    from obliviate.states.update import State
    from obliviate.training.protocol import BlockTrainer, Trained

    Commit = Callable[[Sequence[Entry], Mapping[int, bytes]], None]


def training_on(
    chain: Chain,
    trainer: BlockTrainer,
    erased: NDArray[np.int64],
    *,
    guarantee: Guarantee,
    commit_first: Commit | None = None,
    evaluator: Evaluator | None = None,
) -> Generator[Event, None, bool]:
    """Train on the blocks behind the last one of a chain; under the lease.

    Args:
        chain: The chain; blocks are committed as they come.
        trainer: What to train with.
        erased: Sorted ids of the records to leave out.
        guarantee: What is promised of the new blocks.
        commit_first: What writes the first of them down, with whatever is to come true with it.
        evaluator: What measures them, and may end the training early.

    Returns:
        Whether it was ended early, with what is now the last block.
    """
    finished, contents = chain.length, dict[int, bytes]()
    if evaluator is not None and evaluator.is_over(finished):
        return True
    blocks = range(finished + 1, chain.blocks + 1)
    chain.initial_hashes  # noqa: B018 - before there are other states in memory
    start = yield from bridging(chain, trainer, finished, erased)
    previous, training = start.model, trainer.train(start, blocks, erased)
    del start

    def commit(entries: Sequence[Entry]) -> None:
        its = {entry.block: contents.pop(entry.block) for entry in entries}
        is_first = entries[0].block == blocks.start
        chain.append(entries, its, commit=commit_first if is_first else None)

    with chain.storing(commit, trainer.environment.threads) as storing:
        for item in training:
            if isinstance(item, Event):
                if item.done == item.total:
                    storing.wait()
                yield replace(item, task="fit", done=finished + item.done, total=chain.blocks)
                continue
            contents[item.block] = packed(item.contents)
            values = evaluator.measured(item) if evaluator is not None else None
            if evaluator is not None and evaluator.is_over(item.block):
                chain.blocks = item.block
            store = partial(
                _stored,
                chain,
                trainer.parameters,
                replace(item, checkpoint=Checkpoint(model=item.checkpoint.model)),
                previous,
                guarantee,
                evaluation=values,
                is_fast=storing.is_late,
            )
            moments = partial(chain.stored_moments, item)
            previous, finished = item.checkpoint.model, item.block
            done = Event(
                task="fit",
                done=finished,
                total=chain.blocks,
                block=finished,
                loss=item.loss,
                evaluation=values,
            )
            del item  # states are large
            storing.put(previous, store, moments)
            del store, moments
            yield done
            if finished == chain.blocks:
                break
    return finished < blocks.stop - 1


def _stored(
    chain: Chain,
    learned: frozenset[str],
    trained: Trained,
    previous: State,
    guarantee: Guarantee,
    *,
    evaluation: Values | None,
    is_fast: bool,
) -> Entry:
    """Store a block; the previous state is used up."""
    update = Update()

    def made() -> Update:
        nonlocal update
        update = update_between(previous, trained.checkpoint.model, consume=True)
        return update

    entry = chain.stored(trained, made, origin="trained", guarantee=guarantee, is_fast=is_fast)
    if trained.is_learning and learned.isdisjoint({*update.steps, *update.taken}):
        warnings.warn(
            f"block {trained.block} was trained on, and changed no parameter. An optimizer that "
            "gathers gradients over several calls begins anew in every block: gather them within "
            "the step instead, or take fewer blocks",
            NothingLearned,
            stacklevel=2,
        )
    return replace(entry, evaluation=evaluation)
