"""Exchange: the gradients of microbatches that several ranks worked out, added in one tree.

Each rank adds up the subtrees of its own microbatches. Where each has one whole subtree, and there
are 2, 4, 8, ... ranks, neighbours give each other their sums, then neighbouring pairs, and so on;
large sums in halves (Rabenseifner, "Optimization of collective reduction operations", 2004). a + b
and b + a have the same bits, so all ranks end with the sum that one process has. Otherwise all give
each other their subtrees, and add them in the order of the tree.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from obliviate.recipe.recipe import invalid
from obliviate.training.buffers import Left
from obliviate.training.gradients import Gradients, joined, subtrees
from obliviate.training.room import Plan, Room

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from obliviate.recipe.recipe import Recipe
    from obliviate.training.buffers import Buffers
    from obliviate.training.ranks import Ranks

IN_HALVES_BYTES = 1 << 16
"""From how many on sums are worked out in halves: smaller ones are a matter of latency."""

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Of losses."""


@dataclass(frozen=True)
class _Told:
    """What goes with the sum of a subtree.

    Attributes:
        loss: Its part of the batch's loss.
        kind: The number of the loss's dtype, from 1.
        count: How many microbatches were there; not above 0 where none was.
    """

    loss: float
    kind: float
    count: float


_NUMBERS = len(("loss", "kind", "count"))


class Exchange:
    """Adds up what the ranks have worked out of the batches of a block.

    Attributes:
        own: The numbers of this rank's microbatches.
        nodes: The subtrees of them that it adds up by itself.
        left: How many batches of the block are still to be added up.
        is_told: Whether all ranks know that something went wrong.
    """

    def __init__(self, ranks: Ranks, recipe: Recipe, model: nn.Module, buffers: Buffers) -> None:
        """Make room for gradients.

        Args:
            ranks: Who exchanges.
            recipe: How many microbatches a batch has, and on what device.
            model: Whose parameters.
            buffers: Its buffers.
        """
        self._ranks, self._recipe, self._buffers = ranks, recipe, buffers
        self._whole, each = range(recipe.microbatches), recipe.microbatches // ranks.size
        shares = [range(rank * each, (rank + 1) * each) for rank in range(ranks.size)]
        self._nodes = [subtrees(self._whole, share) for share in shares]
        self.own, self.nodes = shares[ranks.rank], self._nodes[ranks.rank]
        self._owners = {node: rank for rank, its in enumerate(self._nodes) for node in its}
        self._order = list(self._owners)
        self._is_paired = not ranks.size & (ranks.size - 1) and len(self._order) == ranks.size
        self._parameters = dict(model.named_parameters())
        trained = [each for each in self._parameters.values() if each.requires_grad]
        self._plan = Plan(
            summed=(*trained, *buffers.statistics),
            carried=tuple(buffers.others),
            numbers=_NUMBERS * len(self._order) + 1,
            pieces=ranks.size,
            device=recipe.device,
        )
        self._rooms: dict[range | None, Room] = {}
        self.left, self.is_told, self._has_items = 0, False, False

    def _room(self, node: range | None) -> Room:
        """Memory for a subtree, or for what another rank gives: the same for every batch."""
        if node not in self._rooms:
            self._rooms[node] = Room(self._plan)
        return self._rooms[node]

    # Of a batch

    def items(self, own: Mapping[int, float]) -> dict[int, float]:
        """How many items each microbatch of a batch has, by those of this rank's.

        Raises:
            ObliviateError: Something went wrong on another rank.
        """
        numbers = self._gathered(own, is_failed=False)
        self._has_items = True
        return {
            number: int(value) if value.is_integer() else value
            for number, value in enumerate(numbers)
            if value >= 0
        }

    def _gathered(self, own: Mapping[int, float], *, is_failed: bool) -> list[float]:
        """A number for each microbatch, -1 for those that are not there."""
        mine = torch.full((len(self._whole) + 1,), -1.0, dtype=torch.float64)
        for number, value in own.items():
            mine[number] = value
        mine[-1] = float(is_failed)
        mine = mine.to(self._recipe.device)
        others = [rank for rank in range(self._ranks.size) if rank != self._ranks.rank]
        theirs = {rank: torch.empty_like(mine) for rank in others}
        self._ranks.traded([(mine, rank) for rank in others], [(theirs[at], at) for at in others])
        *numbers, status = torch.stack([mine, *theirs.values()]).amax(0).tolist()
        self._check(status)
        return numbers

    def summed(self, sums: Sequence[Gradients | None], expected: int) -> Gradients | None:
        """The sum of a batch's gradients over all ranks; None where there was nothing to learn.

        Args:
            sums: Those of this rank's subtrees.
            expected: The number of the first microbatch that should be there: what it leaves in
                the buffers goes with the sums.

        Raises:
            InvalidRecipe: A gradient is sparse, or a buffer has another form than before.
            ObliviateError: Something went wrong on another rank.
        """
        for node, gradients in zip(self.nodes, sums, strict=True):
            self._fill(node, gradients, is_first=expected in node)
        total = self._total()
        self.left, self._has_items = self.left - 1, False
        self._check(total.numbers[-1].item())
        return self._result(total, sums, expected)

    def fail(self) -> None:
        """Take part in the next exchange of the block, if there is one, with nothing to give.

        All ranks have to agree on what went wrong after that.
        """
        self.is_told = True
        if not self.left:
            return
        if self._recipe.weigh is not None and not self._has_items:
            self._gathered({}, is_failed=True)
            return
        for node in self.nodes:
            self._room(node).clear()
        self._room(self.nodes[0]).numbers[-1] = 1
        self._total()

    def _check(self, status: float) -> None:
        """See that nothing went wrong on another rank.

        Raises:
            ObliviateError: It did.
        """
        if status > 0 and not self.is_told:
            self.is_told = True
            self._ranks.agree(None)

    def _fill(self, node: range, gradients: Gradients | None, *, is_first: bool) -> None:
        room = self._room(node)
        if gradients is None:
            room.clear()
            return
        pairs = zip(self._parameters.items(), gradients.tensors, strict=True)
        tensors = [_dense(name, each) for (name, of), each in pairs if of.requires_grad]
        room.fill([*tensors, *gradients.left.sums])
        loss, at = gradients.loss, _NUMBERS * self._order.index(node)
        told = [float(loss), _DTYPES.index(loss.dtype) + 1, gradients.left.count]
        room.numbers[at : at + _NUMBERS] = torch.tensor(told, dtype=torch.float64)
        if is_first and (other := room.carry(gradients.left.first)) is not None:
            raise invalid(
                [
                    f"the buffer {self._buffers.names[other]!r} has another shape or dtype after a "
                    "microbatch, which ranks cannot exchange; make it as large as it gets in the "
                    "model's constructor"
                ]
            )

    def _result(
        self, total: Room, sums: Sequence[Gradients | None], expected: int
    ) -> Gradients | None:
        numbers = total.numbers[:-1].tolist()
        starts = range(0, len(numbers), _NUMBERS)
        told = [_Told(*numbers[at : at + _NUMBERS]) for at in starts]
        there = {node: each for node, each in zip(self._order, told, strict=True) if each.count > 0}
        losses = {node: self._loss(there[node]) if node in there else None for node in self._order}
        loss = joined(self._whole, losses, operator.add)
        if loss is None:
            return None
        trained = sum(each.requires_grad for each in self._parameters.values())
        tensors, first = total.tensors(), next(iter(there))
        return Gradients(
            loss=loss,
            tensors=self._gradients(tensors[:trained], sums),
            left=Left(
                sums=tuple(tensors[trained:]),
                first=tuple(total.carried() if expected in first else self._sent(first, sums)),
                count=sum(int(each.count) for each in there.values()),
            ),
        )

    def _loss(self, told: _Told) -> Tensor:
        return torch.tensor(
            told.loss, dtype=_DTYPES[int(told.kind) - 1], device=self._recipe.device
        )

    def _gradients(
        self, tensors: Sequence[Tensor | None], sums: Sequence[Gradients | None]
    ) -> tuple[Tensor | None, ...]:
        """The sums in tensors of their own, laid out as autograd does."""
        own = next((each.tensors for each in sums if each is not None), None)
        rest = iter(tensors)
        found: list[Tensor | None] = []
        for at, parameter in enumerate(self._parameters.values()):
            tensor = next(rest) if parameter.requires_grad else None
            if tensor is None:
                found.append(None)
                continue
            mine = None if own is None else own[at]
            mine = torch.empty_like(parameter, requires_grad=False) if mine is None else mine
            mine.copy_(torch.view_as_complex(tensor) if parameter.is_complex() else tensor)
            found.append(mine)
        return tuple(found)

    def _sent(self, node: range, sums: Sequence[Gradients | None]) -> list[Tensor | None]:
        """What the microbatches of another subtree than expected leave in the buffers."""
        room, owner, rank = self._room(None), self._owners[node], self._ranks.rank
        if rank == owner:
            gradients = sums[self.nodes.index(node)]
            assert gradients is not None  # noqa: S101 - all have been told that it is there
            room.carry(gradients.left.first)
            others = [other for other in range(self._ranks.size) if other != rank]
            self._ranks.traded([(room.tail, other) for other in others], [])
        else:
            self._ranks.traded([], [(room.tail, owner)])
        return room.carried()

    # Adding

    def _total(self) -> Room:
        """The sum over all ranks; the same on each of them."""
        if not self._is_paired:
            return self._collected()
        own, spare = self._room(self.nodes[0]), self._room(None)
        is_cut = self._ranks.size > 2 and len(own.raw) > IN_HALVES_BYTES  # noqa: PLR2004
        for distance in self._distances:
            partner = self._ranks.rank ^ distance
            if is_cut:
                self._ranks.swapped(own.tail, spare.tail, partner)
                own.add_tail(spare)
            else:
                self._ranks.swapped(own.raw, spare.raw, partner)
                own.add(spare)
        for mine, theirs in zip(own.sections, spare.sections, strict=True) if is_cut else ():
            self._in_halves(mine, theirs)
        return own

    @property
    def _distances(self) -> list[int]:
        return [1 << level for level in range(self._ranks.size.bit_length() - 1)]

    def _in_halves(self, mine: Tensor, spare: Tensor) -> None:
        """Sum up a part of a section, then give each other the parts."""
        rank, first, length = self._ranks.rank, 0, len(mine)
        for distance in self._distances:
            length //= 2
            halves = mine[first : first + length], mine[first + length : first + 2 * length]
            is_upper = bool(rank & distance)
            self._ranks.swapped(halves[not is_upper], spare[:length], rank ^ distance)
            halves[is_upper].add_(spare[:length])
            first += length * is_upper
        for distance in reversed(self._distances):
            other = first - length if rank & distance else first + length
            part, theirs = mine[first : first + length], mine[other : other + length]
            self._ranks.swapped(part, theirs, rank ^ distance)
            first, length = min(first, other), 2 * length

    def _collected(self) -> Room:
        """All subtrees of all ranks, added in the order of the tree."""
        others = [rank for rank in range(self._ranks.size) if rank != self._ranks.rank]
        for at in range(max(map(len, self._nodes))):
            mine, its = self.nodes[at : at + 1], [(rank, self._nodes[rank][at:]) for rank in others]
            self._ranks.traded(
                [(self._room(node).raw, rank) for node in mine for rank in others],
                [(self._room(its[0]).raw, rank) for rank, its in its if its],
            )
        total = joined(self._whole, {each: self._room(each) for each in self._order}, _added)
        assert total is not None  # noqa: S101 - no room is absent
        return total


def _added(first: Room, second: Room) -> Room:
    first.add(second)
    return first


def _dense(name: str, tensor: Tensor | None) -> Tensor | None:
    if tensor is not None and tensor.layout != torch.strided:
        raise invalid(
            [
                f"the gradient of {name!r} is sparse, which ranks cannot exchange; make the module "
                "with sparse=False, or train in one process"
            ]
        )
    return tensor
