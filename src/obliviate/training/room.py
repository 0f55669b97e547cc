"""Room: one piece of memory for all that a rank gives to another about a batch.

Sums lie in it by dtype, one behind the other, then the numbers that go with them, then bytes that
only one rank has. What is absent is -0.0, or no bytes: adding two rooms leaves it without a trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ABSENT = -0.0
_ALIGNED_BYTES = 64


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What has room.

    Attributes:
        summed: Tensors like those that are added.
        carried: Tensors like those of which one rank has the bytes; None takes none.
        numbers: How many numbers go with them.
        pieces: Into how many pieces each dtype's sums can be cut.
        device: Where.
    """

    summed: tuple[Tensor, ...]
    carried: tuple[Tensor | None, ...]
    numbers: int
    pieces: int
    device: str


class Room:
    """Memory by a plan.

    Attributes:
        raw: All of its bytes.
        sections: All that is summed, by dtype. Shapes (n,).
        tail: The bytes behind them.
        numbers: What goes with the sums, in double precision.
    """

    def __init__(self, plan: Plan) -> None:
        """Make it; what is in it at first means nothing."""
        tensors = [_real(each) for each in plan.summed]
        dtypes = list(dict.fromkeys(each.dtype for each in tensors))
        counts = {
            dtype: sum(each.numel() for each in tensors if each.dtype == dtype) for dtype in dtypes
        }
        counts = {dtype: -(-count // plan.pieces) * plan.pieces for dtype, count in counts.items()}
        sizes = [_aligned(count * dtype.itemsize) for dtype, count in counts.items()]
        numbers_bytes = _aligned((len(tensors) + plan.numbers) * torch.float64.itemsize)
        carried_bytes = [
            0 if each is None else _aligned(each.numel() * each.element_size())
            for each in plan.carried
        ]
        total = sum(sizes) + numbers_bytes + sum(carried_bytes)
        self.raw = torch.zeros(total, dtype=torch.uint8, device=plan.device)
        *sections, self.tail = torch.split(self.raw, [*sizes, numbers_bytes + sum(carried_bytes)])
        self.sections = [
            section.view(dtype)[:count]
            for section, (dtype, count) in zip(sections, counts.items(), strict=True)
        ]
        numbers, carried = torch.split(self.tail, [numbers_bytes, sum(carried_bytes)])
        together = numbers.view(torch.float64)
        self._together, self._carried = together, carried
        self._flags = together[: len(tensors)]
        self.numbers = together[len(tensors) : len(tensors) + plan.numbers]
        starts = dict(zip(dtypes, self.sections, strict=True))
        self._tensors = list(_views(tensors, starts))
        self._likes, self._pieces = plan.carried, torch.split(carried, carried_bytes)

    def clear(self) -> None:
        """Let nothing be there."""
        for each in (*self.sections, self._together):
            each.fill_(ABSENT)
        self._carried.zero_()

    def fill(self, tensors: Sequence[Tensor | None]) -> None:
        """Write what is summed; None is absent."""
        self._together.fill_(ABSENT)
        self._carried.zero_()
        flags = [1.0 if each is not None else ABSENT for each in tensors]
        self._flags.copy_(torch.tensor(flags, dtype=torch.float64))
        for place, tensor in zip(self._tensors, tensors, strict=True):
            if tensor is None:
                place.fill_(ABSENT)
            else:
                place.copy_(_real(tensor))

    def carry(self, tensors: Sequence[Tensor | None]) -> int | None:
        """Write bytes that nobody else writes.

        Returns:
            Which of them has another form than was planned; None where none has.
        """
        planned = zip(self._likes, self._pieces, tensors, strict=True)
        for at, (like, piece, tensor) in enumerate(planned):
            if _form(like) != _form(tensor):
                return at
            if tensor is not None:
                raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
                piece[: len(raw)].copy_(raw)
        return None

    def add(self, other: Room) -> None:
        """Add all that is in another room."""
        for mine, theirs in zip(self.sections, other.sections, strict=True):
            mine.add_(theirs)
        self.add_tail(other)

    def add_tail(self, other: Room) -> None:
        """Add what goes with the sums."""
        self._together.add_(other._together)
        self._carried.add_(other._carried)

    def tensors(self) -> list[Tensor | None]:
        """What is summed, in this memory; None where it is absent. Complex ones are pairs."""
        flags = self._flags.tolist()
        return [
            tensor if flag > 0 else None for tensor, flag in zip(self._tensors, flags, strict=True)
        ]

    def carried(self) -> list[Tensor | None]:
        """What was carried, in this memory."""
        return [
            None
            if like is None
            else piece[: like.numel() * like.element_size()].view(like.dtype).view(like.shape)
            for like, piece in zip(self._likes, self._pieces, strict=True)
        ]


def _views(tensors: Sequence[Tensor], sections: dict[torch.dtype, Tensor]) -> Iterator[Tensor]:
    at = dict.fromkeys(sections, 0)
    for each in tensors:
        first = at[each.dtype]
        at[each.dtype] = first + each.numel()
        yield sections[each.dtype][first : at[each.dtype]].view(each.shape)


def _real(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNED_BYTES) * _ALIGNED_BYTES


def _form(tensor: Tensor | None) -> tuple[object, ...]:
    return () if tensor is None else (tensor.dtype, tensor.shape)
