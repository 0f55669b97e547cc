"""Verifying a run: stored blocks are replayed, and the digests compared."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from obliviate.chain.bridge import bridging
from obliviate.chain.reproduction import changed_records
from obliviate.chain.walk import Walk
from obliviate.errors import InvalidOption, Mismatch, RunDamaged, TrainingFailed
from obliviate.events import Event, finish
from obliviate.options import index_of, listed
from obliviate.states.update import digest
from obliviate.text import shown
from obliviate.training.protocol import Checkpoint, trained_block

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.chain.chain import Chain
    from obliviate.ledger import Ledger
    from obliviate.training.protocol import BlockTrainer


CHANGED = "the run was changed meanwhile; verify once more"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What came of verifying some blocks.

    Attributes:
        reproduced: Blocks whose replay gave the stored digest, bit for bit.
        failed: Blocks that did not, with what came of it instead.
        skipped: Blocks that cannot be reproduced by replaying, with the reason.
        journal: What was changed in the ledger from outside, by its journal; where that was looked
            at.
        rebuilt: Blocks whose lost objects were made again first, where that was asked for.
        changed: Records that are not what they were trained on, by block, in words; where all of
            the data was looked at.
    """

    reproduced: tuple[int, ...] = ()
    failed: dict[int, str] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    journal: tuple[str, ...] = ()
    rebuilt: tuple[int, ...] = ()
    changed: dict[int, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no block, record or journal failed. Skipped blocks did not."""
        return not (self.failed or self.journal or self.changed)


def journal_faults(ledger: Ledger, head: str | None) -> tuple[str, ...]:
    """What was changed in a ledger from outside.

    Args:
        ledger: Whose journal is read, from its first entry on.
        head: The hash of an entry that was written down earlier and has to be there still.

    Raises:
        InvalidOption: It is no such hash.
    """
    check_head(head)
    faults = ledger.faults()
    if head is not None and head not in {entry.hash for entry in ledger.journal.entries()}:
        faults.append(
            f"no entry of the journal has the hash {head}: since it was written down, entries were "
            "removed or forged"
        )
    return tuple(faults)


def check_head(head: str | None) -> None:
    """See that something can be the hash of an entry of a journal.

    Raises:
        InvalidOption: It cannot.
    """
    if head is not None and not (isinstance(head, str) and re.fullmatch("[0-9a-f]{64}", head)):
        raise InvalidOption(
            f"the journal head is {shown(head)}",
            hint="give the 64 hexadecimal digits that `obliviate status` showed",
        )


def verifying(
    chain: Chain,
    trainer: BlockTrainer,
    blocks: Iterable[int] | None,
    erased: NDArray[np.int64],
    waiting: frozenset[int] = frozenset(),
) -> Generator[Event, None, Verification]:
    """Replay blocks from the checkpoint before each, and compare.

    Where all blocks are asked for, block 0 is made anew too. A block that another process rewrites
    meanwhile is skipped.

    Args:
        chain: The chain.
        trainer: What to replay with.
        blocks: Their numbers; None for all.
        erased: Sorted ids of erased records.
        waiting: Blocks that hold records of an erasure that has not been carried out yet.

    Raises:
        InvalidOption: There is no such block.
    """
    last = chain.length
    numbers = list(range(last + 1)) if blocks is None else block_numbers(blocks, last)
    reproduced: list[int] = []
    failed: dict[int, str] = {}
    skipped: dict[int, str] = {}
    walk, is_current = Walk(chain), True
    for done, number in enumerate(numbers):
        yield Event(task="verify", done=done, total=len(numbers), block=number)
        is_current = is_current and chain.is_current()
        reason = _reason_to_skip(chain, number, waiting) if is_current else CHANGED
        fault = None if reason else _fault(chain, walk, trainer, number, erased)
        if fault and not chain.is_current():
            reason, is_current = CHANGED, False
        if reason:
            skipped[number] = reason
        elif fault:
            failed[number] = fault
        else:
            reproduced.append(number)
    return Verification(reproduced=tuple(reproduced), failed=failed, skipped=skipped)


def comparing_data(
    chain: Chain,
    trainer: BlockTrainer,
    blocks: Iterable[int] | None,
    erased: NDArray[np.int64],
    waiting: frozenset[int] = frozenset(),
) -> Generator[Event, None, dict[int, str]]:
    """Read the retained records of blocks, and compare each with what it was trained on.

    Args:
        chain: The chain.
        trainer: What to read with.
        blocks: Their numbers; None for all.
        erased: Sorted ids of erased records; they are not read.
        waiting: Blocks that hold records of an erasure that has not been carried out yet.

    Returns:
        What was found, in words, by block.
    """
    last = chain.length
    numbers = range(1, last + 1) if blocks is None else block_numbers(blocks, last)
    faults = {}
    for done, number in enumerate(numbers):
        yield Event(task="compare data", done=done, total=len(numbers), block=number)
        if number in waiting:
            continue
        try:
            differing = changed_records(
                chain, trainer, number, trainer.reader.contents(number, erased)
            )
        except TrainingFailed as error:
            differing = error.message
        if differing is not None:
            faults[number] = differing
    return faults


def block_numbers(blocks: Iterable[int], last: int) -> list[int]:
    """The numbers of blocks, sorted, each once.

    Raises:
        InvalidOption: There is no such block.
    """
    hint = f"give a list of blocks; they run from 1 to {last}"
    numbers = set()
    for block in listed(blocks, "blocks", hint):
        number = index_of(block)
        if number is None or not 1 <= number <= last:
            raise InvalidOption(f"there is no block {shown(block)}", hint=hint)
        numbers.add(number)
    return sorted(numbers)


def _reason_to_skip(chain: Chain, number: int, waiting: frozenset[int]) -> str | None:
    if number in waiting:
        return "holds records of an erasure that is not finished"
    entry, before = chain.entries[number], chain.entries[max(number - 1, 0)]
    if "approximate" in (entry.guarantee, before.guarantee):
        return f"approximate ({entry.origin})"
    return None


def _before(
    chain: Chain,
    walk: Walk,
    trainer: BlockTrainer,
    number: int,
    erased: NDArray[np.int64],
) -> Checkpoint:
    """The checkpoint before a block; where it is not kept, the one that was made on the way."""
    previous = max(number - 1, 0)
    known = walk.made.pop(previous, None)
    walk.made.clear()
    if chain.is_held(previous):
        return walk.checkpoint(previous)
    return known or finish(bridging(chain, trainer, previous, erased))


def _fault(
    chain: Chain,
    walk: Walk,
    trainer: BlockTrainer,
    number: int,
    erased: NDArray[np.int64],
) -> str | None:
    try:
        before = [_before(chain, walk, trainer, number, erased)]
        if chain.is_held(number):
            walk.state(number)
    except (RunDamaged, Mismatch) as error:
        return error.message
    # states are large: the one before the block is the trainer's to let go
    trained = trained_block(trainer, number, before.pop, erased)
    replayed, stored = digest(trained.checkpoint.model), chain.entries[number].digest
    if replayed == stored:
        if not chain.is_held(number):
            walk.made[number] = trained.checkpoint
        return None
    return changed_records(chain, trainer, number, trained.contents) or (
        f"the replay has digest {replayed[:12]}, the stored state {str(stored)[:12]}"
    )
