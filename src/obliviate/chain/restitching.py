"""Restitching: what a stretch of blocks needs anew, so that it stands on a replay.

The updates stay as they are, but for the first of them where u is not taken off in full: it leads
from Q_e = P_e - u back over the rest of u. Values of buffers that were written down after the
erased records had been seen are left out of all.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from obliviate.ledger.facts import STITCHED
from obliviate.states.difference import subtracted
from obliviate.states.update import LARGE_BYTES, digest, increased, size_bytes, without

if TYPE_CHECKING:
    from torch import Tensor

    from obliviate.chain.chain import Chain
    from obliviate.ledger import Entry
    from obliviate.states.update import State

_WRITERS = 4


@dataclass(frozen=True, kw_only=True)
class Offset:
    """What sets the states of a stitched stretch apart from the old ones.

    Attributes:
        steps: What is taken off, by name: at most u = P_e - Q_e.
        rest: u less that, by name; empty where it is nothing.
        buffers: The values of buffers, as the replay left them.
        is_forgetful: Whether the later updates hold old values of buffers that must not stay.
    """

    steps: State
    rest: State
    buffers: State
    is_forgetful: bool = False


def restitched(
    chain: Chain, span: range, offset: Offset, state: State, erasure: int
) -> list[Entry]:
    """Store what a span of blocks that is stitched on needs anew; return the entries.

    Args:
        chain: The chain.
        span: The blocks.
        offset: What sets their states apart from the old ones.
        state: The state after the last of them.
        erasure: The erasure that does it.
    """
    keyframes = [at for at in span[:-1] if chain.entries[at].keyframe]
    # hashing and flushing wait more than they compute
    with ThreadPoolExecutor(1 if size_bytes(state) > LARGE_BYTES else _WRITERS) as writers:
        stored = writers.map(
            lambda at: _restored(chain, at, _shifted(chain, at, offset), erasure), keyframes
        )
        entries = {entry.block: entry for entry in stored}
    entries[span[-1]] = _restored(chain, span[-1], state, erasure)
    for at in span if offset.is_forgetful else span[: bool(offset.rest)]:
        update = chain.update(at)
        left = without(update, frozenset(offset.buffers))
        if at == span[0] and offset.rest:
            left = increased(left, offset.rest, state)
        elif left.taken.keys() == update.taken.keys():
            continue
        entry = entries.get(at, replace(chain.entries[at], **STITCHED, erasure=erasure))
        entries[at] = replace(entry, update=chain.keep_update(left))
    return [entries[at] for at in sorted(entries)]


def _shifted(chain: Chain, block: int, offset: Offset) -> dict[str, Tensor]:
    """P_k less an offset: a state with the rest of training stitched onto a replay."""
    state = subtracted(chain.state(block), offset.steps, consume=True)
    return state | dict(offset.buffers)


def _restored(chain: Chain, block: int, state: State, erasure: int) -> Entry:
    """The entry of a stitched block, which keeps its update and has this state as keyframe."""
    entry = replace(chain.entries[block], **STITCHED, erasure=erasure)
    return replace(entry, digest=digest(state), keyframe=chain.keep(state))
