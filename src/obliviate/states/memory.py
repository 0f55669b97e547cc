"""Memory that is used again: pages which are new to a process cost more than copying into them."""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_BYTES = 1 << 16
"""Less comes from memory that the allocator keeps at hand anyway."""

_ALIGNMENT = 64  # as torch has it


class Memory:
    """Gives memory of some size, the same again once nobody holds on to it.

    It may be used by several threads. What was given, and is not needed any more, stays with it
    until it is itself let go of.
    """

    def __init__(self) -> None:
        self._spare: defaultdict[int, deque[NDArray[np.uint8]]] = defaultdict(deque)

    def view(self, size_bytes: int) -> memoryview:
        """So many bytes, whatever they are; in use as long as there is any view of them."""
        spare = self._spare[size_bytes]
        try:
            whole = spare.pop()
        except IndexError:
            whole = np.empty(size_bytes + _ALIGNMENT, np.uint8)
        start = -whole.ctypes.data % _ALIGNMENT
        # views of a memoryview all hold on to what it is of; those of an array do not
        lent = whole[start : start + size_bytes]
        if size_bytes >= LEAST_BYTES:
            weakref.finalize(lent, spare.append, whole).atexit = False
        return memoryview(lent)  # type: ignore[arg-type]
