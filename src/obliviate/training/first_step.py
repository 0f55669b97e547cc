"""What is tried before a run is made: what could not be replayed or forgotten is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from obliviate.errors import NotDeterministic, NotFinite, TrainingFailed
from obliviate.events import Event
from obliviate.recipe.recipe import invalid
from obliviate.recipe.user_code import named
from obliviate.states.update import digest, place
from obliviate.training.base import frozen_names
from obliviate.training.determinism import seed_generators
from obliviate.training.model import is_dense
from obliviate.training.protocol import trained_block
from obliviate.training.step import step_seed
from obliviate.vault.codec import DTYPES

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.training.layout import Microbatch
    from obliviate.training.protocol import BlockTrainer, Checkpoint, Tried

TRIED_SHARE = 200
"""One step in so many of the whole training is tried twice, the first ones."""
SHORT_SHARE = 100
"""A first block that is no more of all steps is trained on twice on any device: 2 % of the time."""
TRIED_WITH_SEVERAL = 10
"""So many at the least where there are several optimizers, of which each has to make one."""

_KEEP_NO_STATE = "keep no state outside the state dict"


def probe(trainer: BlockTrainer, erased: NDArray[np.int64]) -> None:
    """Try the first steps twice, and batches as erasures will leave them.

    Raises:
        InvalidRecipe: Faults of the model, the optimizer or the batch, all in one message; or a
            batch that an erasure would leave cannot be trained on.
        NotDeterministic: The second time gave something else.
        TrainingFailed: The dataset, the model, the loss or the optimizer raised.
        NotFinite: The loss is NaN or infinite.
    """
    with trainer.environment.entered():
        faults = list(faults_of(trainer.model))
    if faults:
        raise invalid(faults)
    block, first = first_microbatches(trainer, erased)
    if not first:
        raise invalid(["no batch is large enough to train on; take fewer blocks"])
    trainer.spare_module()
    initial, names = trainer.initial(), _names(trainer.model)
    tried = [trainer.try_steps(initial, block, first)]
    _check_same_names(names, _names(trainer.model))
    _check_used(tried[0].unused)
    if not trainer.parameters | trainer.buffers <= initial.model.keys():
        # what is frozen and was written to belongs to it from now on, and is treated as buffers are
        initial = trainer.initial()
        tried = [trainer.try_steps(initial, block, first)]
    tried.append(trainer.try_steps(initial, block, first))
    _check_same(trainer, first, tried)
    _check_gradients(trainer, block, first[0])
    rehearse(trainer, initial, block, first[0])


def try_block(trainer: BlockTrainer, erased: NDArray[np.int64]) -> Generator[Event, None, None]:
    """Train on the first block twice, where that tells more than the first steps did.

    On an accelerator always: what its libraries do cannot be read off any setting. Elsewhere where
    the block is short beside all of training. What came of it is no part of training.

    Args:
        trainer: What was probed.
        erased: Sorted ids of records to leave out.

    Raises:
        NotDeterministic: The second time gave something else.
        TrainingFailed, NotFinite: The block cannot be trained on.
    """
    layout, device = trainer.layout, torch.device(trainer.recipe.device)
    is_short = SHORT_SHARE * layout.steps(1) <= layout.total_steps(1)
    if device.type == "cpu" and not is_short:
        return
    block, _ = first_microbatches(trainer, erased)
    found = []
    for turn in range(2):
        yield Event(task="first block, tried twice", done=turn, total=2, block=block)
        trained = trained_block(trainer, block, trainer.initial, erased)
        packed = trained.checkpoint.optimizer
        found.append((digest(trained.checkpoint.model), packed and digest(packed)))
    if found[0] == found[1]:
        return
    every = list(layout.microbatches(block, erased))
    tried = [trainer.try_steps(trainer.initial(), block, every) for _ in range(2)]
    _check_same(trainer, every, tried)
    raise NotDeterministic(
        f"block {block}, trained on twice, ended in two states, while its steps by themselves "
        "gave one",
        hint="let the dataset give the same record each time, in whatever process it is read; "
        f"{_KEEP_NO_STATE}",
    )


def _check_same(
    trainer: BlockTrainer, microbatches: Sequence[Microbatch], tried: Sequence[Tried]
) -> None:
    """See that some steps, made twice, gave the same."""
    if tried[0] == tried[1]:
        return
    once, again = map(vars, tried)
    part = next(part for part in ("batches", "losses", "state") if once[part] != again[part])
    which = {
        "batches": "a batch differs",
        "losses": "a loss differs",
        "state": "the state differs",
    }[part]
    if part == "batches" and _draws_alike(trainer, microbatches):
        which = "collate made two batches of the same records"
    hint = (
        "draw randomness from the global generators of torch, numpy and Python (they are seeded "
        f"before each record, batch and step), not from one of your own; {_KEEP_NO_STATE}"
    )
    if part != "batches" and torch.device(trainer.recipe.device).type != "cpu":
        hint += (
            "; take no kernel that adds in the order in which threads come (of an extension, of "
            "Triton, of torch.compile): torch refuses its own, and cannot see others"
        )
    steps = len({each.step for each in microbatches})
    raise NotDeterministic(
        f"the first steps ({steps}), tried twice, gave two results: {which}", hint=hint
    )


def _draws_alike(trainer: BlockTrainer, microbatches: Iterable[Microbatch]) -> bool:
    """Whether the dataset gives the same records again, so that their collation does not."""
    reader = trainer.reader
    return trainer.recipe.collate is not None and all(
        reader.content(record) == reader.content(record)
        for each in microbatches
        for record in each.records.tolist()
    )


def first_microbatches(
    trainer: BlockTrainer, erased: NDArray[np.int64]
) -> tuple[int, list[Microbatch]]:
    """The first block that has a batch, and the microbatches of the first of its batches.

    Raises:
        InvalidRecipe: A batch cannot be cut into so many.
    """
    layout = trainer.layout
    needed = layout.microbatch_count * layout.smallest_batch
    if layout.microbatch_count > 1 and layout.batch_size < needed:
        raise invalid(
            [
                f"a batch of {layout.batch_size} records cannot be cut into "
                f"{layout.microbatch_count} microbatches of {layout.smallest_batch} or more; take "
                f"batch_size={needed}, or fewer microbatches"
            ]
        )
    with trainer.environment.entered():
        least = TRIED_WITH_SEVERAL if len(trainer.optimizer(None).optimizers) > 1 else 1
    for block in range(1, layout.blocks + 1):
        count = max(least, layout.total_steps(block) // TRIED_SHARE)
        steps = groupby(layout.microbatches(block, erased), attrgetter("step"))
        first = [each for _, batch in islice(steps, count) for each in batch]
        if first:
            return block, first
    return layout.blocks, []


def _check_used(unused: Sequence[str]) -> None:
    if unused:
        raise invalid(
            [
                f"in the first steps, optimizer {unused[0]} made none with a gradient; leave it "
                "out, or let the first steps train with it too"
            ]
        )


def rehearse(trainer: BlockTrainer, start: Checkpoint, block: int, microbatch: Microbatch) -> None:
    """Train on batches as erasures leave them: less one record, and as small as they may be.

    Raises:
        InvalidRecipe: Somebody could not be forgotten.
    """
    records, smallest = microbatch.records, trainer.layout.smallest_batch
    for size in sorted({len(records) - 1, min(smallest, len(records))}, reverse=True):
        if size < smallest or size == len(records):
            continue
        try:
            trainer.try_steps(start, block, [replace(microbatch, records=records[:size])])
        except (TrainingFailed, NotFinite) as error:
            raise invalid(
                [
                    f"a batch that erasures leave with {size} of {len(records)} records cannot be "
                    f"trained on ({error.message}), so that people could not be forgotten. Let "
                    "the step take a batch of any size, or return None where there is nothing to "
                    "learn; or say how many records it needs: smallest_batch="
                ]
            ) from error


def _leaves(trainer: BlockTrainer, block: int, microbatch: Microbatch) -> list[Tensor]:
    """The tensors that the loss of a batch would give a gradient to, by its graph."""
    trainer.model.train()
    batch = trainer.reader.of_block(block, microbatch)
    with trainer.environment.entered(), named("a first step"):
        seed_generators(step_seed(trainer.recipe.seed, block, microbatch), trainer.recipe.device)
        loss = trainer.forward(batch)
    known: dict[int, Any] = {}
    waiting = [] if loss is None else [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and id(node) not in known:
            known[id(node)] = node
            waiting += [each for each, _ in node.next_functions]
    return [node.variable for node in known.values() if hasattr(node, "variable")]


def _check_gradients(trainer: BlockTrainer, block: int, microbatch: Microbatch) -> None:
    """See that whatever the loss would train belongs to the model."""
    own = {id(each) for each in trainer.model.parameters()}
    foreign = [each for each in _leaves(trainer, block, microbatch) if id(each) not in own]
    trained = [each for each in foreign if isinstance(each, nn.Parameter)]
    if trained:
        shapes = ", ".join(str(list(each.shape)) for each in trained[:3])
        raise invalid(
            [
                f"the loss has parameters of its own (of shape {shapes}) that nothing would train; "
                "make them part of the model, and work the loss out in step(model, batch)"
            ]
        )


def _names(model: nn.Module) -> set[str]:
    return {*model.state_dict(), *(name for name, _ in model.named_parameters())}


def _check_same_names(before: set[str], after: set[str]) -> None:
    if before != after:
        new, lost = sorted(after - before), sorted(before - after)
        what = f"made {new[0]!r}" if new else f"took {lost[0]!r} away"
        raise invalid(
            [
                f"the model {what} in its first forward pass; a checkpoint has the parameters and "
                "buffers that a new model has: make them in the model's constructor, or run a "
                "batch through it in its factory"
            ]
        )


def faults_of(model: nn.Module) -> Iterator[str]:
    """What in a model cannot be kept in a checkpoint, or cannot be trained."""
    entries, frozen = model.state_dict(), frozen_names(model)
    kept = {name: value for name, value in entries.items() if name not in frozen}
    live = {each.data_ptr() for each in (*model.parameters(), *model.buffers()) if is_dense(each)}
    for name, value in kept.items():
        if is_lazy(value):
            yield f"{name!r} has no shape yet; run a batch through the model in its factory"
        elif not isinstance(value, Tensor):
            yield f"state dict entry {name!r} is not a tensor; keep extra state in buffers"
        elif value.layout != torch.strided:
            yield f"state dict entry {name!r} is {value.layout}; only dense tensors can be kept"
        elif value.dtype not in DTYPES:
            yield f"{name!r} is {value.dtype}, which cannot be kept; use bfloat16, float32, ..."
        elif value.numel() and value.data_ptr() not in live:
            yield (
                f"the state dict gives a copy of {name!r}: what is loaded into it is lost; let it "
                "give the model's own tensors"
            )
        elif _overlaps(value):
            yield f"{name!r} is expanded: several of its elements are one; make it with .clone()"
    yield from _unkept_faults(model, {place(each) for each in kept.values() if is_dense(each)})
    if not any(parameter.requires_grad for parameter in model.parameters()):
        yield "no parameter of the model requires a gradient"


def _unkept_faults(model: nn.Module, kept: set[tuple[object, ...]]) -> Iterator[str]:
    """What is trained and in no state dict: no checkpoint would have it."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and is_dense(parameter) and place(parameter) not in kept:
            yield (
                f"the state dict leaves out {name!r}, which is trained; let it hold all that "
                "requires a gradient"
            )


def _overlaps(tensor: Tensor) -> bool:
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return any(size > 1 and stride == 0 for size, stride in pairs)
