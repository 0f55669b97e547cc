"""Idling: what an optimizer does to some entries of a model while their gradient is zero.

Decay and the momentum that is left move them on, step after step, over all the blocks that a stitch
puts back. So what a step costs counts: entries of all tensors, and of all states that are asked
about, lie side by side in one tensor, as an optimizer that treats each entry by itself allows; and
the rest of a block is left out once a step changes nothing any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer

    from obliviate.states.difference import Places
    from obliviate.states.update import State
    from obliviate.training.optimizer import ScheduledOptimizer
    from obliviate.training.protocol import BlockTrainer


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Some entries of one tensor, in one state.

    Attributes:
        number: Of the state.
        name: Of the tensor.
        entries: Their values. Shape (n,).
        moments: What the optimizer keeps for each of them, by kind. Shapes (n,).
        others: What else it keeps for the tensor, such as the number of its steps.
    """

    number: int
    name: str
    entries: Tensor
    moments: dict[str, Tensor]
    others: dict[str, Any]

    @property
    def likeness(self) -> Hashable:
        """Alike for pieces that one parameter of an optimizer may hold together."""
        others = sorted((kind, _mark(value)) for kind, value in self.others.items())
        kind = self.entries.dtype, self.entries.device
        return (*kind, tuple(sorted(self.moments)), tuple(others))


@dataclass(frozen=True, kw_only=True)
class _Bundle:
    """Pieces side by side, in one parameter of an optimizer."""

    parameter: Parameter
    pieces: list[_Piece] = field(default_factory=list)

    @classmethod
    def of(cls, pieces: list[_Piece], optimizer: Optimizer) -> _Bundle:
        """Put them into one parameter, and what is kept for them into the optimizer's state."""
        first = pieces[0]
        parameter = torch.nn.Parameter(torch.cat([each.entries for each in pieces]))
        parameter.grad = torch.zeros_like(parameter)
        if kept := first.moments | first.others:
            optimizer.state[parameter] = {
                kind: torch.cat([each.moments[kind] for each in pieces])
                if kind in first.moments
                else _copy(value)
                for kind, value in kept.items()
            }
        return cls(parameter=parameter, pieces=pieces)

    def put(self, values: Sequence[Mapping[str, Tensor]]) -> None:
        """Begin with some values."""
        found = [values[each.number][each.name] for each in self.pieces]
        with torch.no_grad():
            self.parameter.copy_(torch.cat(found))

    def take(self, into: list[dict[str, Tensor]]) -> None:
        """Hand the values over."""
        left, begin = self.parameter.detach().cpu(), 0
        for piece in self.pieces:
            end = begin + len(piece.entries)
            into[piece.number][piece.name] = left[begin:end].clone()
            begin = end


@dataclass(frozen=True, kw_only=True)
class _Whole:
    """An optimizer as it is for all entries.

    Attributes:
        optimizer: What makes the steps.
        states: What is kept for each parameter; of each state that is asked about.
        groups: Its groups: their parameters, and their numbers, some of which steps may change.
    """

    optimizer: Optimizer
    states: list[dict[Any, dict[str, Any]]]
    groups: list[dict[str, Any]]


class Idling:
    """What the recipe's optimizer does to some entries while their gradient is zero."""

    def __init__(self, trainer: BlockTrainer, packed: Sequence[State | None]) -> None:
        """Make the optimizers.

        Args:
            trainer: Whose recipe to use.
            packed: The optimizer's state, where it is carried; of each state that is asked about.
        """
        self._trainer, self._packed, self._is_carried = trainer, packed, packed[0] is not None
        self._bundles: list[_Bundle] = []
        self._is_resting = False
        self._first: list[list[tuple[Tensor, dict[str, object]]]] = []

    @cached_property
    def _scheduled(self) -> list[ScheduledOptimizer]:
        """One for each state; the first makes the steps, of a few entries at a time."""
        with self._trainer.environment.entered():
            return [self._trainer.optimizer(each) for each in self._packed]

    @cached_property
    def _whole(self) -> list[_Whole]:
        """The optimizers as they are for all entries."""
        return [
            _Whole(
                optimizer=alike[0],
                states=[dict(each.state) for each in alike],
                groups=[dict(group) for group in alike[0].param_groups],
            )
            for alike in zip(*(each.optimizers for each in self._scheduled), strict=True)
        ]

    def after(
        self,
        places: Places,
        values: Sequence[Mapping[str, Tensor]],
        blocks: Iterable[int],
        erased: NDArray[np.int64],
    ) -> list[dict[str, Tensor]]:
        """What becomes of values of some entries in some blocks.

        An optimizer that cannot be run on a few entries by themselves leaves them as they are.

        Args:
            places: The entries.
            values: Theirs, by name; in each of the states.
            blocks: Which.
            erased: Ids of all erased records, sorted: a batch that they leave empty is no step.
        """
        idle = [dict(each) for each in values]
        if not any(map(len, places.values())):
            return idle
        with self._trainer.environment.entered():
            self._narrow(places)
            for bundle in self._bundles:
                bundle.put(values)
            try:
                for block in blocks:
                    self._idle(block, erased)
            except Exception:
                return idle
            for bundle in self._bundles:
                bundle.take(idle)
        return idle

    def _narrow(self, places: Places) -> None:
        """Let the first optimizer have these entries, of all states."""
        names = {id(each): name for name, each in self._trainer.model.named_parameters()}
        self._bundles, self._is_resting = [], False
        for whole in self._whole:
            whole.optimizer.state.clear()
            for group, known in zip(whole.optimizer.param_groups, whole.groups, strict=True):
                bundled: dict[Hashable, list[_Piece]] = {}
                for parameter in known["params"]:
                    name = names.get(id(parameter), "")
                    for number, state in enumerate(whole.states if name in places else ()):
                        piece = _piece_of(number, name, parameter, places[name], state)
                        # a number may be taken for a count of steps: it stays by itself
                        alone = (number, name) if parameter.dim() == 0 else ()
                        bundled.setdefault((piece.likeness, alone), []).append(piece)
                bundles = [_Bundle.of(pieces, whole.optimizer) for pieces in bundled.values()]
                group.update(known, params=[each.parameter for each in bundles])
                self._bundles += bundles
        if not self._is_carried:
            self._first = [_state_of(each) for each in self._scheduled[0].optimizers]

    def _idle(self, block: int, erased: NDArray[np.int64]) -> None:
        layout = self._trainer.layout
        first, total = layout.first_step(block), layout.total_steps(block)
        scheduled = self._scheduled[0]
        if not self._is_carried:
            for each, state in zip(scheduled.optimizers, self._first, strict=True):
                _renew(each, state)
        # the first step after motion may find new rates, and a new optimizer
        looked_at = 0 if self._is_resting and self._is_carried else 1
        for number, (step, _) in enumerate(layout.batches(block, erased)):
            scheduled.set_rates(first + step, total)
            before = self._all() if number == looked_at else []
            for bundle in self._bundles:
                assert bundle.parameter.grad is not None  # noqa: S101 - each was given one
                bundle.parameter.grad.zero_()
            for each in scheduled.optimizers:
                each.step()
            if before:
                self._is_resting = _are_equal(before, self._all())
                if self._is_resting:
                    return

    def _all(self) -> list[Tensor]:
        """Copies of all that a step may change, but counters."""
        kept = [
            value
            for optimizer in self._scheduled[0].optimizers
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor) and value.dim()
        ]
        return [each.detach().clone() for each in (*(b.parameter for b in self._bundles), *kept)]


def _piece_of(
    number: int, name: str, parameter: Parameter, at: Tensor, state: Mapping[Any, dict[str, Any]]
) -> _Piece:
    at = at.to(parameter.device)
    moments, others = {}, {}
    for kind, value in state.get(parameter, {}).items():
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
            moments[kind] = value.reshape(-1)[at].clone()
        else:
            others[kind] = value
    entries = parameter.detach().reshape(-1)[at].clone()
    return _Piece(number=number, name=name, entries=entries, moments=moments, others=others)


def _mark(value: Any) -> Hashable:
    """Equal for equal numbers; of anything else, for the very same."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else id(value)
    return value if isinstance(value, (bool, int, float, str)) else id(value)


def _are_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def _state_of(optimizer: Optimizer) -> list[tuple[Tensor, dict[str, object]]]:
    return [
        (entries, {name: _copy(value) for name, value in state.items()})
        for entries, state in optimizer.state.items()
    ]


def _renew(optimizer: Optimizer, first: list[tuple[Tensor, dict[str, object]]]) -> None:
    optimizer.state.clear()
    for entries, state in first:
        optimizer.state[entries] = {name: _copy(value) for name, value in state.items()}


def _copy(value: object) -> object:
    return value.clone() if isinstance(value, torch.Tensor) else value
