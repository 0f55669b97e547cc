"""Buffers of a stitched state: which the erased records changed, and how they follow weights."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from torch.nn.modules.batchnorm import _BatchNorm

from obliviate.recipe.deal import key
from obliviate.recipe.user_code import named
from obliviate.states.update import captured, raw_bytes
from obliviate.training.determinism import seed_generators
from obliviate.training.model import load_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from obliviate.states.update import State
    from obliviate.training.protocol import BlockTrainer


def buffers_apart(names: Iterable[str], original: State, replayed: State) -> frozenset[str]:
    """Of the buffers of modules in which the erased records made a difference, the names.

    The buffers of a module belong together, as a scale and its zero point: all are taken from the
    original, or none.

    Args:
        names: Of all buffers.
        original: P_e.
        replayed: Q_e.
    """
    names = list(names)
    differ = (name for name in names if raw_bytes(original[name]) != raw_bytes(replayed[name]))
    apart = set(map(_module, differ))
    return frozenset(name for name in names if _module(name) in apart)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def batch_norm_statistics(model: nn.Module) -> frozenset[str]:
    """Names of the running statistics of BatchNorm, which are measured anew."""
    return frozenset(
        f"{name}.{kind}" if name else kind
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm)
        for kind in ("running_mean", "running_var")
    )


def reestimated(
    trainer: BlockTrainer,
    state: State,
    blocks: Iterable[int],
    erased: NDArray[np.int64],
    *,
    following: frozenset[str] = frozenset(),
    passes: int = 1,
) -> dict[str, Tensor]:
    """A stitched state whose running statistics are measured anew, on retained records.

    A sum of differences of running averages is no average of anything; the weights are what was
    stitched. BatchNorm is given a plain average over the records. Other buffers are no business of
    ours: they follow forward passes as they follow training, from the values that they have.

    Args:
        trainer: Whose model and data to use.
        state: The stitched state.
        blocks: Blocks whose records are used, once in each pass.
        erased: Sorted ids, never read.
        following: The names of buffers that follow.
        passes: How often the records are gone through.

    Returns:
        The state with new statistics; as it was, where the model keeps none or no record is left
        in the blocks.
    """
    layers = {
        name: module
        for name, module in trainer.model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    trainer.model.train()
    # a frozen layer stays in evaluation, and one without momentum does not follow its batches
    layers = {
        name: layer for name, layer in layers.items() if layer.training and layer.momentum != 0
    }
    batches = list(first_passes(trainer, blocks, erased)) if layers or following else []
    if not batches:
        return dict(state)
    load_state(trainer.model, state)
    with trainer.environment.entered():
        seed_generators(key(trainer.recipe.seed, "reestimate"), trainer.recipe.device)
        for _ in range(passes - 1):
            _pass_forward(trainer, batches)
        with _averaging(layers.values()):
            _pass_forward(trainer, batches)
    live = trainer.model.state_dict()
    measured = captured({name: live[name] for name in state})
    kinds = ("running_mean", "running_var")
    seen = [name for name, layer in layers.items() if bool(layer.num_batches_tracked)]
    names = {f"{name}.{kind}" if name else kind for name in seen for kind in kinds} | following
    return {name: measured[name] if name in names else state[name] for name in state}


def _pass_forward(trainer: BlockTrainer, batches: Iterable[NDArray[np.int64]]) -> None:
    for records in batches:
        batch = trainer.reader.batch(records)
        with named("measuring running statistics"):
            trainer.forward(batch)


@contextlib.contextmanager
def _averaging(layers: Iterable[_BatchNorm]) -> Iterator[None]:
    """Let BatchNorm keep a plain average over the batches, from nothing, for a while."""
    momenta = {layer: layer.momentum for layer in layers}
    try:
        for layer in momenta:
            layer.reset_running_stats()
            layer.momentum = None
        yield
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum


def first_passes(
    trainer: BlockTrainer, blocks: Iterable[int], erased: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """The retained records of some blocks, microbatch by microbatch, each once."""
    for block in blocks:
        steps_once = trainer.layout.steps_once(block)
        for each in trainer.layout.microbatches(block, erased):
            if each.step < steps_once:
                yield each.records
