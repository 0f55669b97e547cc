"""Foundation: what an erasure leaves before the first block that it replayed.

A method that goes back a few epochs alone leaves earlier states that were trained on the erased
records, and updates that those records made. The last block that is not replayed and holds one of
them ends what has to be destroyed: nothing is kept of the blocks up to there. Behind it, updates
were made by others alone. They stay, so that the next request finds them, on a foundation of their
own: the state before them, less what was taken off in the end. It is stitched, and marked so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from obliviate.ledger.facts import STITCHED
from obliviate.states.difference import subtracted
from obliviate.states.update import applied, digest, update_between, without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obliviate.chain.chain import Chain
    from obliviate.erasure.plan import Plan
    from obliviate.ledger import Entry
    from obliviate.states.update import State


@dataclass(frozen=True, kw_only=True)
class Foundation:
    """What becomes of the blocks before the first replayed one.

    Attributes:
        dropped: Those of which nothing is kept.
        stitched: Those that keep their updates, on another state.
        entries: The block before these, and the first replayed one, which stands on them.
    """

    dropped: range
    stitched: range
    entries: tuple[Entry, ...]

    def under(self, replayed: Sequence[Entry]) -> list[Entry]:
        """All that the chain will hold anew, with what an erasure has replayed on top."""
        entries = {entry.block: entry for entry in (*replayed, *self.entries)}
        return [entries[block] for block in sorted(entries)]


def founded(
    chain: Chain,
    plan: Plan,
    first: Entry,
    *,
    taken: State,
    buffers: State,
    erasure: int,
) -> Foundation:
    """Lay the foundation of a replay, and store what it needs.

    Args:
        chain: As it was before the erasure.
        plan: The erasure, which does not reach all blocks that hold the records.
        first: What the chain will hold of the first replayed block.
        taken: What the erasure took off in the end, by name.
        buffers: The values of buffers that the replay ended with.
        erasure: Its number.
    """
    start, base = first.block, max(plan.window - 1, plan.unreached[-1])
    original = chain.state(base)
    state = subtracted(original, taken) | dict(buffers)
    stitched = replace(chain.entries[base], **STITCHED, update=None, erasure=erasure)
    entries = [replace(stitched, digest=digest(state), keyframe=chain.keep(state))]
    for block in range(base + 1, start):
        update = chain.update(block)
        original = chain.state_after(original, block, update)
        left = without(update, frozenset(buffers))
        state = applied(state, left)
        if left.taken.keys() != update.taken.keys():
            entry = replace(chain.entries[block], **STITCHED, erasure=erasure)
            entries.append(replace(entry, update=chain.keep_update(left)))
    replayed, _ = chain.after(original, first)
    update = update_between(state, replayed.model)
    first = replace(first, update=chain.keep_update(update))
    if not update.is_exact and first.keyframe is None:
        first = replace(first, keyframe=chain.keep(replayed.model))
    entries.append(first)
    return Foundation(
        dropped=range(plan.unreached[0], base),
        stitched=range(base + 1, start),
        entries=tuple(entries),
    )
