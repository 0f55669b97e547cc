"""Differences of states: what one has more than another, by name.

With P_k the chain as it was trained and Q_k its replay without the erased records, u_k = P_k - Q_k
is the sum of V_j - V'_j over the replayed blocks. So it grows while a replay goes on, and its
growth is what residual memory measures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from obliviate.states.update import State, Update

    Places = Mapping[str, Tensor]
    """Flat positions of some entries, by name."""


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


def subtracted(
    state: State, difference: State, share: float = 1.0, *, consume: bool = False
) -> dict[str, Tensor]:
    """A state minus a share of a difference, where it has one; in single precision or better.

    Args:
        state: The state.
        difference: What to take off, by name.
        share: How much of it.
        consume: Write into the state's own tensors, which are lost; saves a state.
    """
    changed: dict[int, Tensor] = {}
    for name, tensor in state.items():
        if id(tensor) not in changed:
            step = difference.get(name)
            if step is None:
                changed[id(tensor)] = tensor
                continue
            less = (tensor - (step if share == 1 else step * share)).to(tensor.dtype)
            changed[id(tensor)] = tensor.copy_(less) if consume else less
    return {name: changed[id(tensor)] for name, tensor in state.items()}


def replaced(state: State, places: Places, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with other values of some entries; what is tied stays so."""
    changed: dict[int, Tensor] = {}
    for name, at in places.items():
        if name in state:
            tensor = state[name].clone(memory_format=torch.contiguous_format)
            tensor.reshape(-1)[at] = values[name].to(tensor.dtype)
            changed[id(state[name])] = tensor
    return {name: changed.get(id(tensor), tensor) for name, tensor in state.items()}


def values_at(state: State, places: Places) -> dict[str, Tensor]:
    """The values of some entries, by name."""
    return {name: entries_at(state, name, at) for name, at in places.items()}


def entries_at(state: State, name: str, at: Tensor) -> Tensor:
    """The values of some entries of one tensor; zeros, where the state has none."""
    return state[name].reshape(-1)[at] if name in state else torch.zeros(len(at))


def l1(tensors: Iterable[Tensor]) -> float:
    """The L1 norm over several tensors, accumulated in double precision."""
    return float(sum(float(tensor.abs().sum(dtype=torch.float64)) for tensor in tensors))
