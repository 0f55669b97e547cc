"""Memory that is used again: pages which are new to a process cost more than copying into them."""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

LEAST_BYTES = 1 << 16
"""Less comes from memory that the allocator keeps at hand anyway."""


class Memory:
    """Gives memory of some size, the same again once nobody holds on to it.

    It may be used by several threads. What was given, and is not needed any more, stays with it
    until it is itself let go of.
    """

    def __init__(self) -> None:
        self._spare: defaultdict[int, deque[Tensor]] = defaultdict(deque)

    def view(self, size_bytes: int) -> memoryview:
        """So many bytes, whatever they are; in use as long as there is any view of them."""
        spare = self._spare[size_bytes]
        try:
            whole = spare.pop()
        except IndexError:
            whole = torch.empty(size_bytes, dtype=torch.uint8)
        # views of a memoryview all hold on to what it is of; those of an array do not
        lent = whole.numpy()
        if size_bytes >= LEAST_BYTES:
            weakref.finalize(lent, spare.append, whole).atexit = False
        return memoryview(lent)  # type: ignore[arg-type]

    def like(self, tensor: Tensor) -> Tensor:
        """A tensor of the same shape and dtype on the CPU, in row-major order."""
        size_bytes = tensor.numel() * tensor.element_size()
        if size_bytes < LEAST_BYTES:
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        return torch.frombuffer(self.view(size_bytes), dtype=tensor.dtype).view(tensor.shape)
