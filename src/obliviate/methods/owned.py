"""Owned entries: those that no retained record of the replayed blocks trains, as a user's own row.

What the erased records did to them, nothing but the optimizer itself wears off: weight decay, and
the momentum that was left. So they are no part of u, which is damped by how the trace fades, and
which knows nothing of later decay. With I what the optimizer does where the gradient is zero, over
the stitched blocks, an owned entry of P_B becomes P_B - (I(P_e) - I(Q_e)): that is I(Q_e), what an
exact replay makes of it, where nobody trained it later either.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import torch

from obliviate.methods.idling import Idling
from obliviate.states.difference import entries_at, values_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from obliviate.states.difference import Places
    from obliviate.states.update import State, Update
    from obliviate.training.protocol import BlockTrainer

_NEAR = 1e-3  # of the step that idling makes, beside rounding
_ROUNDING = 8
_PART = 1 << 20
"""So many entries are looked at together: at first each one is fresh that a record trained."""


class Owned:
    """The entries that erased records alone have trained since they were first seen.

    Attributes:
        places: Where they are.
    """

    def __init__(self, trainer: BlockTrainer, erased: NDArray[np.int64]) -> None:
        """Begin before a block that holds erased records."""
        self._trainer, self._erased = trainer, erased
        self.places: dict[str, Tensor] = {}

    def follow(
        self, block: int, fresh: State, replayed: Update, state: State, optimizer: State | None
    ) -> None:
        """Take in what the erased records trained in a block, and let go what others did.

        Args:
            block: k.
            fresh: Of entries in which V_k and V'_k differ and P_{k-1} and Q_{k-1} do not, flags.
            replayed: V'_k.
            state: Q_k.
            optimizer: That of the replay before the block, where it is carried.
        """
        names = sorted((fresh.keys() | self.places.keys()) & self._trainer.parameters)
        names = [name for name in names if _is_real(state[name])]
        if fresh and optimizer is None and not self._is_moving:
            quiet = {name: replayed.steps[name] == 0 for name in fresh if name in replayed.steps}
            fresh = {name: flags & quiet.get(name, flags) for name, flags in fresh.items()}
        idling = Idling(self._trainer, [optimizer])
        kept: dict[str, list[Tensor]] = {}
        candidates = (self._candidates(name, fresh.get(name)) for name in names)
        for places in _together(chain.from_iterable(candidates)):
            for name, at in self._idle(places, block, replayed, state, idling).items():
                kept.setdefault(name, []).append(at)
        self.places = {name: torch.cat(parts) for name, parts in kept.items()}

    def _idle(
        self, places: Places, block: int, replayed: Update, state: State, idling: Idling
    ) -> dict[str, Tensor]:
        """Those of some entries that did in a block what they do while nobody trains them."""
        steps = {name: entries_at(replayed.steps, name, at) for name, at in places.items()}
        waiting = {name: places[name][step != 0] for name, step in steps.items()}
        before = {
            name: entries_at(state, name, at) - entries_at(replayed.steps, name, at)
            for name, at in waiting.items()
            if len(at)
        }
        waiting = {name: waiting[name] for name in before}
        (after,) = idling.after(waiting, [before], [block], self._erased)
        idle = {}
        for name, at in places.items():
            is_idle = steps[name] == 0
            if name in after:
                is_idle[~is_idle] = _is_near(steps[name][~is_idle], before[name], after[name])
            if is_idle.any():
                idle[name] = at[is_idle]
        return idle

    @cached_property
    def _is_moving(self) -> bool:
        """Whether a new optimizer moves what has no gradient, as by weight decay."""
        parameters = self._trainer.model.named_parameters()
        filled = (name for name, each in parameters if each.numel() and each.requires_grad)
        first = {name: torch.zeros(1, dtype=torch.int64) for name in filled}
        ones = {name: torch.ones(1) for name in first}
        blocks = [1, self._trainer.layout.blocks // 2 + 1]  # a schedule may begin with nothing
        (idle,) = Idling(self._trainer, [None]).after(first, [ones], blocks, self._erased)
        return any(bool((value != 1).any()) for value in idle.values())

    def _candidates(self, name: str, fresh: Tensor | None) -> Iterator[tuple[str, Tensor]]:
        """The entries that are owned so far, and the fresh ones; some at a time."""
        known = self.places.get(name, torch.empty(0, dtype=torch.int64))
        if fresh is None:
            yield from ((name, at) for at in torch.split(known, _PART))
            return
        flags = fresh.reshape(-1).clone()
        flags[known] = True
        for start in range(0, len(flags), _PART):
            yield name, flags[start : start + _PART].nonzero().reshape(-1) + start

    def idled(
        self, values: Sequence[Mapping[str, Tensor]], blocks: range, packed: Sequence[State | None]
    ) -> list[dict[str, Tensor]]:
        """What becomes of values of the entries, if nobody trains them in some blocks.

        Args:
            values: Of the entries by name, in each of some states.
            blocks: Which.
            packed: The optimizer's state beside each of them, where it is carried.
        """
        return Idling(self._trainer, packed).after(self.places, values, blocks, self._erased)

    def untrained(self, packed: State | None) -> State | None:
        """An optimizer's state as if nobody had ever trained them; its own tensors are changed."""
        if packed is None or not self.places:
            return packed
        names = {id(each): name for name, each in self._trainer.model.named_parameters()}
        groups = self._trainer.optimizer(None).groups
        order = [names.get(id(each), "") for group in groups for each in group["params"]]
        sizes = {name: each.numel() for name, each in self._trainer.model.named_parameters()}
        for place, moments in packed.items():
            number, is_of_parameter, _ = place.partition("/")
            name = order[int(number)] if is_of_parameter else ""
            if name in self.places and moments.numel() == sizes[name]:
                moments.view(-1)[self.places[name]] = 0
        return packed

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(map(len, self.places.values()))


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What is taken off owned entries at the end of a stitch.

    Attributes:
        steps: I(P_e) - I(Q_e), by name.
        idle: How many of the entries nobody trained in the stitched blocks either.
        others: How many others trained there.
        left: Of the difference that the erased records made to the idle ones, the share that is
            left in the stitched state.
    """

    steps: dict[str, Tensor]
    idle: int
    others: int
    left: float

    def __str__(self) -> str:
        """In words, for reports."""
        words = f"{self.idle} entries that erased records alone had trained: {self.left:.2%} left"
        return words + (f"; {self.others} more that others trained later" if self.others else "")


def taken_off(
    owned: Owned,
    blocks: range,
    *,
    difference: State,
    replayed: State,
    until: State,
    optimizers: tuple[State | None, State | None],
) -> Taken:
    """What of owned entries of P_B is to be taken off.

    Where the original shows that nothing happened to an entry, as with sparse gradients, neither
    does it here.

    Args:
        owned: The entries.
        blocks: The blocks to be stitched, e+1 and later.
        difference: u.
        replayed: Q_e.
        until: P at the last of the blocks.
        optimizers: Of P_e and of Q_e, where they are carried.
    """
    before, full = values_at(replayed, owned.places), values_at(difference, owned.places)
    original = {name: (value + full[name]).to(value.dtype) for name, value in before.items()}
    with_it, without = owned.idled((original, before), blocks, optimizers)
    steps, left, whole, idle = {}, 0.0, 0.0, 0
    for name, at in owned.places.items():
        found, stayed = entries_at(until, name, at), original[name]
        is_moved = (found - with_it[name]).abs() <= (found - stayed).abs()
        steps[name] = torch.where(is_moved, with_it[name] - without[name], full[name])
        end = torch.where(is_moved, without[name], before[name])
        expected = torch.where(is_moved, with_it[name], stayed)
        is_idle = _is_near(found - end, end, expected)
        made, kept = (found - end)[is_idle].double(), (found - steps[name] - end)[is_idle].double()
        left, whole = left + float(kept @ made), whole + float(made @ made)
        idle += int(is_idle.sum())
    share = left / whole if whole else 0.0
    return Taken(steps=steps, idle=idle, others=owned.count - idle, left=share)


def _together(candidates: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Places by name: those of small tensors together, of large ones one part after the other."""
    places: dict[str, Tensor] = {}
    count = 0
    for name, at in candidates:
        if name in places or count + len(at) > _PART:
            yield places
            places, count = {}, 0
        if len(at):
            places[name], count = at, count + len(at)
    if places:
        yield places


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def _is_near(step: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Whether steps are those of idling, but for rounding."""
    idle = (after - before).float()
    rounding = _ROUNDING * torch.finfo(before.dtype).eps
    size = before.abs().float() + idle.abs()
    return (step.float() - idle).abs() <= _NEAR * idle.abs() + rounding * size
