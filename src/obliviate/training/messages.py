"""Messages: words and tensors that a rank tells another, as the bytes that travel."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from obliviate.errors import ObliviateError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from obliviate.states.update import State

BYTE = torch.uint8
_TOGETHER_BYTES = 1 << 16
"""Up to how many bytes tensors are told in one message with the words."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a rank tells another.

    Attributes:
        words: Anything that JSON can say.
        tensors: By name, on the CPU.
    """

    words: Mapping[str, Any]
    tensors: State


def pieces_of(words: Mapping[str, Any], tensors: State) -> list[Tensor]:
    """What travels of a message: two lengths, words and small tensors together, large tensors."""
    tensors = {name: each.detach().contiguous() for name, each in tensors.items()}
    forms = {
        name: [str(each.dtype).removeprefix("torch."), list(each.shape)]
        for name, each in tensors.items()
    }
    told = json.dumps({"words": dict(words), "tensors": forms}).encode()
    small = [bytes_of(each).numpy().tobytes() for each in tensors.values() if not is_large(each)]
    together = bytearray(b"".join([told, *small]))
    pieces = [torch.tensor([len(told), len(together)]), torch.frombuffer(together, dtype=BYTE)]
    return [*pieces, *(bytes_of(each) for each in tensors.values() if is_large(each))]


def told_of(error: Exception | None) -> dict[str, str] | None:
    """An error, in words for other ranks."""
    if error is None:
        return None
    if isinstance(error, ObliviateError):
        return {"code": error.code, "message": error.message, "hint": error.hint}
    message = f"{type(error).__name__}: {error}"
    return {"code": ObliviateError.code, "message": message, "hint": ""}


def verdict_of(errors: Sequence[dict[str, str] | None]) -> dict[str, str] | None:
    """The error of the first rank that has one; who it is, unless all have the same."""
    there = {rank: error for rank, error in enumerate(errors) if error is not None}
    if not there:
        return None
    rank, error = next(iter(there.items()))
    if all(each == error for each in errors):
        return error
    return error | {"message": f"rank {rank}: {error['message']}"}


def is_large(tensor: Tensor) -> bool:
    """Whether a tensor travels by itself."""
    return tensor.numel() * tensor.element_size() > _TOGETHER_BYTES


def bytes_of(tensor: Tensor) -> Tensor:
    """A tensor's memory. Shape (bytes,)."""
    if not tensor.numel():
        return torch.empty(0, dtype=BYTE)
    return tensor.view(-1).view(BYTE)
