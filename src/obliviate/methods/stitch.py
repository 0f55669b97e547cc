"""Stitching: putting the later, not replayed part of training back on top of the replayed part.

With e the last replayed block, the paper's result is Q_e + (P_B - P_e), which is P_B - u for the
difference u = P_e - Q_e. The difference is the sum of V_k - V'_k over the replayed blocks, so it
grows while the replay goes on, and its growth is what residual memory measures.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from obliviate.chain.chain import subtracted
from obliviate.methods.method import Stitched
from obliviate.recipe.user_code import named
from obliviate.states.update import captured, l1
from obliviate.training.batches import moved
from obliviate.training.determinism import seed_generators
from obliviate.training.layout import key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.methods.method import Rest
    from obliviate.states.update import State, Update
    from obliviate.training.trainer import Trainer


class Difference:
    """u_k = P_k - Q_k, followed from block to block.

    Attributes:
        tensors: u by name, for every entry that is a sum of what blocks did to it; in single
            precision or better.
        fresh: Flags of the entries that differ since the block that was followed last, where that
            was wanted.
    """

    def __init__(
        self,
        parameters: frozenset[str],
        buffers: frozenset[str] = frozenset(),
        *,
        is_kept: bool = True,
    ) -> None:
        """Start at a block where P and Q are the same.

        Args:
            parameters: The names that residual memory is measured on.
            buffers: The names of what is no such sum, and is not followed.
            is_kept: Whether u is wanted; where nothing will be stitched, its growth is enough.
        """
        self._parameters, self._buffers, self._is_kept = parameters, buffers, is_kept
        self.tensors: dict[str, Tensor] = {}
        self.fresh: dict[str, Tensor] = {}
        self._is_watched = False

    def follow(
        self,
        original: Iterable[tuple[str, Tensor]],
        replayed: Update,
        *,
        is_watched: bool = False,
    ) -> tuple[float, float]:
        """Add V_k - V'_k.

        Args:
            original: The steps of V_k by name; used up, their memory becomes the difference's.
            replayed: V'_k.
            is_watched: Whether to say which entries begin to differ.

        Returns:
            The residual memory Δ_k = ‖V_k - V'_k‖₁ over the parameters, and ‖V_k‖₁, which it is
            taken relative to.
        """
        total, length, missing = 0.0, 0.0, dict(replayed.steps)
        self.fresh, self._is_watched = {}, is_watched and self._is_kept
        for name, step in original:  # in one order, for sums to have the same bits
            if name in self._parameters:
                length += l1([step])
            total += self._add(name, _minus(step, missing.pop(name, None)))
        for name, step in missing.items():
            total += self._add(name, -_single(step))
        return total, length

    def _add(self, name: str, growth: Tensor) -> float:
        size = l1([growth]) if name in self._parameters else 0.0
        if self._is_kept and name not in self._buffers:
            known = self.tensors.get(name)
            if self._is_watched:
                is_new = growth != 0 if known is None else (growth != 0) & (known == 0)
                self.fresh[name] = is_new
            self.tensors[name] = growth if known is None else known.add_(growth)
        return size

    def split(self, rho: float, places: State, owned: State) -> dict[str, Tensor]:
        """Keep what is taken off, and return the rest of u; nothing where there is none.

        Args:
            rho: The share of u.
            places: Flat positions of entries that have a share of their own.
            owned: What is taken off of those.
        """
        rest = {name: step * (1 - rho) for name, step in self.tensors.items()} if rho != 1 else {}
        for name, at in places.items():
            own = self.tensors[name].reshape(-1)[at] - owned[name]
            if name not in rest and bool((own != 0).any()):
                rest[name] = torch.zeros_like(self.tensors[name])
            if name in rest:
                rest[name].view(-1)[at] = own
        for name, step in self.tensors.items():
            step.mul_(rho)
            if name in places:
                step.view(-1)[places[name]] = owned[name].to(step.dtype)
        return rest


def _minus(left: Tensor, right: Tensor | None) -> Tensor:
    return _single(left) if right is None else _single(left).sub_(_single(right))


def _single(tensor: Tensor) -> Tensor:
    is_half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if is_half else tensor


def reestimated(
    trainer: Trainer,
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
    batches = list(first_epochs(trainer, blocks, erased)) if layers or following else []
    if not batches:
        return dict(state)
    trainer.load(state)
    with trainer.environment.entered():
        seed_generators(key(trainer.recipe.seed, "reestimate"), trainer.recipe.device)
        for _ in range(passes - 1):
            _pass_forward(trainer, batches)
        with _averaging(layers.values()):
            _pass_forward(trainer, batches)
    measured = captured(trainer.model.state_dict())
    kinds = ("running_mean", "running_var")
    seen = [name for name, layer in layers.items() if bool(layer.num_batches_tracked)]
    names = {f"{name}.{kind}" if name else kind for name in seen for kind in kinds} | following
    return {name: measured[name] if name in names else state[name] for name in state}


def _pass_forward(trainer: Trainer, batches: Iterable[NDArray[np.int64]]) -> None:
    for records in batches:
        batch = moved(trainer.batch(records), trainer.recipe.device)
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


def first_epochs(
    trainer: Trainer, blocks: Iterable[int], erased: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """The retained records of some blocks, batch by batch, each once."""
    for block in blocks:
        per_epoch = trainer.layout.steps(block) // trainer.layout.epochs
        for step, records in trainer.layout.batches(block, erased):
            if step < per_epoch:
                yield records


def stitched(rest: Rest, rho: float) -> Stitched:
    """P_B - ρ·u, and the same finished.

    Args:
        rest: P_B, u, and what finishes a state; the tensors of P_B are written into.
        rho: From 0 to 1.
    """
    full = rest.difference
    share = full if rho == 1 else {name: step * rho for name, step in full.items()}
    state = subtracted(rest.original, share, consume=True)
    return Stitched(rho=rho, state=state, finished=rest.finish(state))
