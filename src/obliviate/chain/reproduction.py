"""Reproduction: before anything is called exact, blocks of known digest are trained again.

A replay equals the original training only where this machine, recipe and data still give the same
bits, and no list of settings is complete. So one block that the erasure leaves alone is trained
from the checkpoint before it, here and now, and has to end in the state that is stored. Stretches
that earlier erasures replayed without such a comparison are compared too, by one block each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from obliviate.errors import Mismatch, NotFinite, RunDamaged, TrainingFailed
from obliviate.events import Event
from obliviate.recipe.contents import changed
from obliviate.states.update import digest
from obliviate.text import counted
from obliviate.training.protocol import trained_block

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.chain.chain import Chain
    from obliviate.recipe.contents import Hashes
    from obliviate.training.protocol import BlockTrainer


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What came of it.

    Attributes:
        blocks: Those that were trained again and gave the stored digest; 0 is the initial state.
        doubt: Why nothing can be called exact, in words; None where nothing was found.
    """

    blocks: tuple[int, ...] = ()
    doubt: str | None = None


def chosen_blocks(
    chain: Chain,
    start: int,
    affected: Collection[int],
    unchecked: Collection[int],
) -> list[int]:
    """The blocks that tell whether a replay equals the original training.

    Args:
        chain: The chain.
        start: The first block that is replayed.
        affected: Blocks that hold records to erase.
        unchecked: Erasures that replayed blocks without comparing any.

    Returns:
        The last exact block before the start of each stretch; where there is none, the first
        unaffected one behind it; where there is none either, block 0: then all of training is
        done anew, and only the initial state comes from elsewhere.
    """
    last: dict[int | None, int] = {}
    for block in range(1, start):
        if _is_known(chain, block):
            erasure = chain.entries[block].erasure
            last[erasure if erasure in unchecked else None] = block
    if last:
        return sorted(last.values())
    later = (
        block
        for block in range(start, len(chain.entries))
        if block not in affected and _is_known(chain, block)
    )
    return [next(later, 0)]


def _is_known(chain: Chain, block: int) -> bool:
    before, entry = chain.entries[block - 1], chain.entries[block]
    is_exact = entry.guarantee == before.guarantee == "exact" and entry.digest is not None
    return is_exact and chain.is_held(block - 1)


def reproducing(
    chain: Chain, trainer: BlockTrainer, blocks: Iterable[int], erased: NDArray[np.int64]
) -> Generator[Event, None, Reproduction]:
    """Train blocks again and compare; nothing is written.

    Args:
        chain: Where they are stored.
        trainer: What to train with.
        blocks: Their numbers.
        erased: Sorted ids of erased records.
    """
    reproduced: list[int] = []
    for block in blocks:
        yield Event(task="compare", done=len(reproduced), total=len(reproduced) + 1, block=block)
        try:
            fault = _fault(chain, trainer, block, erased)
        except (RunDamaged, Mismatch, TrainingFailed, NotFinite) as error:
            fault = f"block {block} could not be trained again to compare it ({error.message})"
        if fault is not None:
            return Reproduction(blocks=tuple(reproduced), doubt=fault)
        reproduced.append(block)
    return Reproduction(blocks=tuple(reproduced))


def _fault(
    chain: Chain, trainer: BlockTrainer, block: int, erased: NDArray[np.int64]
) -> str | None:
    trained = trained_block(trainer, block, partial(chain.checkpoint, block - 1), erased)
    if digest(trained.checkpoint.model) == chain.entries[block].digest:
        return None
    # no digests: what is written down must confirm no guess about a record
    return changed_records(chain, trainer, block, trained.contents) or (
        f"block {block} cannot be reproduced here: trained again it ends in another state than the "
        "stored one; the environment, the recipe or the data is not what it was"
    )


def changed_records(
    chain: Chain, trainer: BlockTrainer, block: int, contents: Hashes
) -> str | None:
    """Which records of a block are not what they were trained on, in words; None: none is known."""
    if not len(contents):
        return None
    records = changed(chain.contents(block), contents, trainer.layout.members(block))
    if not len(records):
        return None
    shown = ", ".join(map(str, records[:5])) + (", ..." if len(records) > 5 else "")  # noqa: PLR2004
    return f"{counted(len(records), 'record')} of block {block} changed since then: {shown}"
