"""Verifying a run: stored blocks are replayed, and the digests compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from obliviate.errors import InvalidOption, Mismatch, RunDamaged
from obliviate.progress import Event
from obliviate.state import digest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.chain import Chain
    from obliviate.training import Trainer


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What came of verifying some blocks.

    Attributes:
        reproduced: Blocks whose replay gave the stored digest, bit for bit.
        failed: Blocks that did not, with what was found instead.
        skipped: Blocks that cannot be reproduced by replaying, with the reason.
    """

    reproduced: tuple[int, ...] = ()
    failed: dict[int, str] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no block failed. Skipped blocks are neither passed nor failed."""
        return not self.failed


def verifying(
    chain: Chain,
    trainer: Trainer,
    blocks: Iterable[int] | None,
    erased: NDArray[np.int64],
    waiting: frozenset[int] = frozenset(),
) -> Generator[Event, None, Verification]:
    """Replay blocks from the checkpoint before each, and compare.

    Args:
        chain: The chain.
        trainer: What to replay with.
        blocks: Their numbers; None for all.
        erased: Sorted ids of erased records.
        waiting: Blocks that hold records of an erasure that has not been carried out yet.

    Raises:
        InvalidOption: There is no such block.
    """
    numbers = sorted(set(range(1, chain.length + 1) if blocks is None else blocks))
    for number in numbers:
        if isinstance(number, bool) or number not in range(1, chain.length + 1):
            raise InvalidOption(
                f"there is no block {number!r}", hint=f"blocks run from 1 to {chain.length}"
            )
    reproduced: list[int] = []
    failed: dict[int, str] = {}
    skipped: dict[int, str] = {}
    for done, number in enumerate(numbers):
        yield Event(task="verify", done=done, total=len(numbers), block=number)
        if number in waiting:
            skipped[number] = "holds records of an erasure that is not finished"
        elif "approximate" in (
            chain.entries[number].guarantee,
            chain.entries[number - 1].guarantee,
        ):
            skipped[number] = f"approximate ({chain.entries[number].origin})"
        else:
            fault = _fault(chain, trainer, number, erased)
            failed |= {number: fault} if fault else {}
            reproduced += [] if fault else [number]
    return Verification(reproduced=tuple(reproduced), failed=failed, skipped=skipped)


def _fault(chain: Chain, trainer: Trainer, number: int, erased: NDArray[np.int64]) -> str | None:
    try:
        start = chain.checkpoint(number - 1)
        chain.state(number)
    except (RunDamaged, Mismatch) as error:
        return error.message
    *_, trained = trainer.train(start, [number], erased)
    assert not isinstance(trained, Event)  # noqa: S101 - the last item is the block
    found, stored = digest(trained.checkpoint.model), chain.entries[number].digest
    if found == stored:
        return None
    return f"the replay has digest {found[:12]}, the stored state {str(stored)[:12]}"
