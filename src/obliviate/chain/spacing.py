"""The budget: how much disk a chain takes, and which chain a given disk can hold.

Every block costs an update, every keyframe a state. Fewer keyframes save disk, and cost time: a
state is restored from the last keyframe before it and every update since.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial

from obliviate.errors import InvalidOption
from obliviate.options import real
from obliviate.recipe.parts import sparse_spacing
from obliviate.text import shown

UPDATE_RATIO, KEYFRAME_RATIO, MOMENTS_RATIO = 0.6, 0.85, 0.85
"""Sizes on disk beside sizes in memory, as measured: docs/benchmarks.md."""

ROOM = 1.2
"""A budget is kept to, though some states can be compressed less."""

LONGEST_WAY = 15
"""Blocks between two keyframes, about, on many blocks: a small net's updates take 20 ms to read."""

OBJECT_BYTES = 1000  # names, shapes and frames, whatever the size

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is stored of a block, on disk.

    Attributes:
        update_bytes: What the block did.
        keyframe_bytes: The state after it.
        moments_bytes: The optimizer's state, where it is carried; 0 where it is not.
    """

    update_bytes: float
    keyframe_bytes: float
    moments_bytes: float = 0.0

    @classmethod
    def expected(
        cls, state_bytes: float, moments_bytes: float = 0.0, update_ratio: float = UPDATE_RATIO
    ) -> Sizes:
        """What to expect of states that have these sizes in memory."""
        return cls(
            update_bytes=update_ratio * state_bytes + OBJECT_BYTES,
            keyframe_bytes=KEYFRAME_RATIO * state_bytes + OBJECT_BYTES,
            moments_bytes=MOMENTS_RATIO * moments_bytes + OBJECT_BYTES if moments_bytes else 0.0,
        )

    def chain_bytes(self, blocks: int, spacing: int, *, epochs: int = 1, keep: int = 1) -> float:
        """About what a chain takes on disk.

        Args:
            blocks: Of an epoch.
            spacing: How many blocks lie between two keyframes, where every update is kept.
            epochs: How many epochs it has.
            keep: Of how many of them every update is kept; see `recipe.parts.Part`.
        """
        kept, gap = blocks * keep, blocks * (epochs - keep)
        sparse = -(-gap // sparse_spacing(blocks))
        keyframes = keyframe_count(gap + kept, spacing, gap) + sparse
        return (
            kept * self.update_bytes
            + keyframes * self.keyframe_bytes
            + (kept + sparse) * self.moments_bytes
        )


def keyframe_spacing(blocks: int) -> int:
    """How many blocks lie between two keyframes, if the disk does not say otherwise.

    Every erasure rewrites the keyframes behind it, and every state is restored from the last one
    before it: at 2√B both grow with √B. On many blocks they stand closer, about `LONGEST_WAY`
    apart and spread evenly, for restoring would take longer than rewriting.
    """
    wanted = max(1, 2 * math.isqrt(blocks))
    return wanted if wanted <= LONGEST_WAY else math.ceil(blocks / (blocks // LONGEST_WAY))


def keyframe_count(blocks: int, spacing: int, gap: int = 0) -> int:
    """How many keyframes a chain has: at the start, at the end, and every so many blocks.

    Args:
        blocks: How many the chain has.
        spacing: How many lie between two keyframes.
        gap: Behind how many of them every update is kept, and keyframes are counted.
    """
    return -(-blocks // spacing) - gap // spacing + 1


def bytes_of(size: str | float) -> float:
    """The bytes of a size like "2GB"; decimal units.

    Raises:
        InvalidOption: It has another form, or is not positive.
    """
    hint = 'give it as in "2GB" or "500MB", or as a number of bytes'
    if not isinstance(size, str):
        return real(size, "the disk budget", above=0, hint=hint)
    found = _SIZE.fullmatch(size)
    value = float(found[1]) * _UNITS[found[2].lower()] if found else 0.0
    if not 0 < value < math.inf:
        raise InvalidOption(f"the disk budget is {shown(size)}", hint=hint)
    return value


def chain_within(
    budget_bytes: float, sizes: Sizes, blocks: int, epochs: int = 1, keep: int = 1
) -> tuple[int, int, int]:
    """The chain that a disk can hold: its blocks, the spacing of keyframes, and what it keeps.

    Keyframes give way first: they cost time alone. Then epochs that are kept in full, and blocks
    only where that is not enough.

    Args:
        budget_bytes: The size of the chain at rest, at most.
        sizes: What to expect of a block; there is to be some room beside.
        blocks: How many are wanted in an epoch.
        epochs: How many there are.
        keep: Of how many of them every update is wanted.

    Raises:
        InvalidOption: Not even a single block fits.
    """
    wanted = [(blocks, kept) for kept in range(keep, 0, -1)]
    wanted += [(number, 1) for number in range(blocks - 1, 0, -1)]
    for number, kept in wanted:
        size = partial(sizes.chain_bytes, number, epochs=epochs, keep=kept)
        length = number * kept
        if ROOM * size(length) > budget_bytes:
            continue
        fitting = (
            spacing
            for spacing in range(keyframe_spacing(length), length + 1)
            if ROOM * size(spacing) <= budget_bytes
        )
        return number, next(fitting, length), kept
    raise InvalidOption(
        f"a chain of one block an epoch takes about "
        f"{ROOM * sizes.chain_bytes(1, 1, epochs=epochs) / 1e6:.3g} MB, more than the "
        f"disk budget of {budget_bytes / 1e6:.3g} MB",
        hint="give it more room",
    )
