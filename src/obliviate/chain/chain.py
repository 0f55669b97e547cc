"""The chain: the checkpoints P_0 .. P_B of a run, kept as the updates that blocks made.

Every block has its update V_k = P_k - P_{k-1}; keyframes, full states, stand at the start, at the
end and every so many blocks. A state is the last keyframe before it and the updates since. A
stitch leaves later updates as they are, so an erasure replaces as many updates as it replayed
blocks, and the keyframes behind them; once the old updates are destroyed no old state can be added
up from what is left. A keyframe leaves out tensors that are as in the initial state, such as a
frozen backbone: those never hold anybody's trace, and are kept once.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from obliviate.chain.custody import sweep
from obliviate.chain.spacing import keyframe_spacing
from obliviate.chain.storing import Storing
from obliviate.errors import PUT_BACK, Mismatch, RunDamaged
from obliviate.ledger import Entry
from obliviate.ledger.facts import DROPPED, STITCHED
from obliviate.recipe.contents import packed, unpacked
from obliviate.states.update import (
    LARGE_BYTES,
    Update,
    applied,
    bytes_hash,
    digest,
    size_bytes,
    without,
)
from obliviate.training.protocol import Checkpoint
from obliviate.vault.ahead import AHEAD, ahead, aside, cores
from obliviate.vault.codec import decode, decode_update, each_tensor, encode, encode_update
from obliviate.vault.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from obliviate.chain.custody import Swept
    from obliviate.chain.storing import Commit
    from obliviate.ledger import Ledger
    from obliviate.ledger.facts import Guarantee, Origin
    from obliviate.ledger.outcome import Outcome
    from obliviate.recipe.contents import Hashes
    from obliviate.recipe.parts import Part
    from obliviate.states.update import State
    from obliviate.training.protocol import Trained
    from obliviate.vault import Stored, Vault
    from obliviate.vault.frames import Plain

_SMALL_BYTES = 1 << 22


class Chain:
    """The checkpoints of one run.

    The ledger row is the commit: an object that no row names does not exist.
    """

    def __init__(
        self,
        ledger: Ledger,
        vault: Vault,
        blocks: int,
        buffers: frozenset[str] = frozenset(),
        *,
        spacing: int = 0,
        parts: Sequence[Part] = (),
    ) -> None:
        self._ledger, self._vault, self._parts = ledger, vault, parts
        self._buffers = buffers
        self._initial_hashes: dict[str, bytes] | None = None
        self._seen_head = ""
        self.blocks = blocks
        self.spacing = spacing or keyframe_spacing(blocks)
        self.entries = ledger.chain.entries()

    @property
    def length(self) -> int:
        """The number of the last block there is."""
        return len(self.entries) - 1

    @property
    def first_approximate(self) -> int | None:
        """The first block whose state is not exact."""
        return next((each.block for each in self.entries if each.guarantee != "exact"), None)

    def is_current(self) -> bool:
        """Whether no other process has rewritten the chain since it was read.

        Nothing changes without an entry of the journal: while its last one is that of the last
        look, the chain is not read again.
        """
        head = self._ledger.journal.head()
        if head != self._seen_head and self._ledger.chain.entries() == self.entries:
            self._seen_head = head
        return head == self._seen_head

    def has_keyframe(self, block: int) -> bool:
        """Whether the plan of the chain sets a keyframe at this block."""
        if block == self.blocks or any(part.needs_keyframe(block) for part in self._parts):
            return True
        return self.has_update(block) and block % self.spacing == 0

    def has_update(self, block: int) -> bool:
        """Whether the plan of the chain keeps what this block did."""
        return not any(part.first_block <= block < part.full_from for part in self._parts)

    # Gaps

    def is_held(self, block: int) -> bool:
        """Whether P_k can be put together from what is kept."""
        while self.entries[block].keyframe is None:
            if self.entries[block].update is None:
                return False
            block -= 1
        return True

    # Reading

    def state(self, block: int) -> dict[str, Tensor]:
        """P_k: put together from the last keyframe and the updates since, and checked.

        Raises:
            RunDamaged: An object is missing or changed.
            Mismatch: The result is not what the ledger says.
        """
        at = block
        while self.entries[at].keyframe is None:
            at -= 1
        state = self.onward(self.keyframe(at), at, block, consume=True)
        if at != block:
            self.check_state(block, state)
        return state

    def onward(
        self, state: dict[str, Tensor], at: int, block: int, *, consume: bool = False
    ) -> dict[str, Tensor]:
        """P_k from an earlier state, by the updates since; not checked.

        Args:
            state: P of `at`.
            at: Its block; there are no keyframes between.
            block: k.
            consume: Write into the earlier state's own tensors, which are lost; saves a state.
        """
        later = range(at + 1, block + 1)
        is_large = size_bytes(state) > LARGE_BYTES
        threads = 0 if len(later) < AHEAD or is_large or self.is_quick(state) else AHEAD
        for number, update in zip(later, ahead(self.update, later, threads), strict=True):
            state = self.state_after(state, number, update, consume=consume)
        return state

    def check_state(self, block: int, state: State) -> None:
        """See that a state that was read is the one of a block.

        Raises:
            Mismatch: It is another.
        """
        stored = self.entries[block].digest
        if stored is not None and digest(state) != stored:
            raise Mismatch(
                f"the state of block {block} is not the one that the ledger names",
                hint=f"the run was changed from outside: {PUT_BACK}",
            )

    def state_after(
        self, previous: State, block: int, update: Update, *, consume: bool = False
    ) -> dict[str, Tensor]:
        """P_k from P_{k-1} and V_k, or from its keyframe, where it has one; see `applied`.

        Buffers are no sums of what blocks did: in a stitched stretch they stay as its replay left
        them.
        """
        entry = self.entries[block]
        if entry.keyframe is not None:
            return self._keyframe(entry)
        if entry.origin == "stitched":
            update = without(update, self._buffers)
        return applied(previous, update, consume=consume)

    def checkpoint(self, block: int) -> Checkpoint:
        """P_k with its optimizer state, where that was kept."""
        return Checkpoint(model=self.state(block), optimizer=self.optimizer(block))

    def keyframe(self, block: int) -> dict[str, Tensor]:
        """P_k as it is stored in full."""
        return self._keyframe(self.entries[block])

    def optimizer(self, block: int) -> dict[str, Tensor] | None:
        """The optimizer's state after a block, where it was kept."""
        return self._optimizer(self.entries[block])

    def update(self, block: int) -> Update:
        """V_k: what the block did."""
        return self._update(self.entries[block])

    def read_update(self, block: int) -> Plain:
        """V_k as it is stored, checked but not decoded; see `update`."""
        return self._vault.read(_present(self.entries[block].update, block))

    def after(self, previous: State, entry: Entry) -> tuple[Checkpoint, Update]:
        """The checkpoint of an entry, given the state before it; for entries outside the chain."""
        update = self._update(entry)
        state = self._keyframe(entry) if entry.keyframe else applied(previous, update)
        return Checkpoint(model=state, optimizer=self._optimizer(entry)), update

    def checkpoint_of(self, entry: Entry) -> Checkpoint:
        """The checkpoint of an entry that has a keyframe; for entries outside the chain."""
        return Checkpoint(model=self._keyframe(entry), optimizer=self._optimizer(entry))

    def _keyframe(self, entry: Entry) -> dict[str, Tensor]:
        return decode(self._vault.read(_present(entry.keyframe, entry.block)), self._initial)

    def _initial(self) -> dict[str, Tensor]:
        return decode(self._vault.read(_present(self.entries[0].keyframe, 0)))

    def _optimizer(self, entry: Entry) -> dict[str, Tensor] | None:
        return decode(self._vault.read(entry.optimizer)) if entry.optimizer else None

    def _update(self, entry: Entry) -> Update:
        return decode_update(self._vault.read(_present(entry.update, entry.block)))

    def contents(self, block: int) -> Hashes:
        """What the records of a block were when they were trained on."""
        return unpacked(self._ledger.chain.contents(block))

    def check(self, entry: Entry, role: str) -> None:
        """Read one object of an entry: its hash, its form and, of a keyframe, what it says.

        Raises:
            RunDamaged: It is missing or changed.
            Mismatch: It decodes to another state than the ledger names.
        """
        if role == "update":
            self._update(entry)
        elif role == "optimizer":
            self._optimizer(entry)
        elif digest(self._keyframe(entry)) != entry.digest:
            raise Mismatch(f"the keyframe of block {entry.block} is another state")

    # Writing

    def stored(
        self,
        trained: Trained,
        update: Callable[[], Update],
        *,
        origin: Origin,
        guarantee: Guarantee,
        erasure: int | None = None,
        is_fast: bool = False,
    ) -> Entry:
        """Store what a block did; it is part of nothing until its entry is committed.

        Whoever commits it has the vault flushed before; see `Storing`. What the block did is asked
        for while the state's digest is worked out in a thread. Moments: see `stored_moments`.
        """
        state = trained.checkpoint.model
        with aside(digest, state, is_worth_it=size_bytes(state) > _SMALL_BYTES) as digested:
            made = update()
            has_update = self.has_update(trained.block)
            has_keyframe = self.has_keyframe(trained.block) or (has_update and not made.is_exact)
            write = partial(self._vault.write, is_durable=False, is_fast=is_fast)
            return Entry(
                block=trained.block,
                origin=origin,
                guarantee=guarantee,
                loss=trained.loss,
                seconds=trained.seconds,
                update=write(encode_update(made)) if has_update else None,
                keyframe=write(self._encoded(state)) if has_keyframe else None,
                digest=digested(),
                erasure=erasure,
            )

    def stored_moments(self, trained: Trained) -> Stored | None:
        """Store the optimizer's state after a block, where it is carried and can be used."""
        optimizer, block = trained.checkpoint.optimizer, trained.block
        if optimizer is None or not (self.has_update(block) or self.has_keyframe(block)):
            return None
        is_fast = size_bytes(optimizer) > LARGE_BYTES  # training waits for it
        return self._vault.write(encode(optimizer), is_durable=False, is_fast=is_fast)

    def is_quick(self, state: State) -> bool:
        """Whether a state is read or stored so soon that another thread would only be in the way.

        Small states on a local disk take a few milliseconds, nearly all of them computing: beside
        training that keeps every core busy, they take longer than before it.
        """
        return size_bytes(state) < _SMALL_BYTES and isinstance(self._vault.storage, Folder)

    def storing(self, commit: Commit, threads: int) -> Storing:
        """What stores blocks of it beside training with so many threads; see `Storing`."""
        is_busy = threads >= cores()
        return Storing(self._vault, commit, is_between=lambda each: is_busy and self.is_quick(each))

    def append(
        self,
        entries: Sequence[Entry],
        contents: Mapping[int, bytes],
        commit: Callable[[Sequence[Entry], Mapping[int, bytes]], None] | None = None,
    ) -> None:
        """Add the next blocks, which were stored.

        Args:
            entries: They.
            contents: What the records of each are, packed.
            commit: What writes them down, where that is more than the entries alone.
        """
        (commit or self._ledger.chain.append)(entries, contents)
        self.entries.extend(entries)

    def keep(self, state: State, *, is_initial: bool = False) -> Stored:
        """Store a keyframe, less what is as in the initial state; or that state itself."""
        return self._vault.write(encode(state) if is_initial else self._encoded(state))

    def _encoded(self, state: State) -> Iterator[bytes | memoryview]:
        same = {
            name: known
            for name, known in self.initial_hashes.items()
            if known == bytes_hash(state[name])
        }
        self._initial_hashes = same  # what has changed once is not asked again
        return encode(state, initial=same)

    @property
    def initial_hashes(self) -> dict[str, bytes]:
        """Hashes of those tensors of the initial state that may still be the same; tied ones once.

        Asked for before a state is in memory, it needs less room.
        """
        if self._initial_hashes is None:
            plain = self._vault.read(_present(self.entries[0].keyframe, 0))
            self._initial_hashes = {name: bytes_hash(tensor) for name, tensor in each_tensor(plain)}
        return self._initial_hashes

    def keep_update(self, update: Update) -> Stored:
        """Store what a block did."""
        return self._vault.write(encode_update(update))

    def keep_optimizer(self, optimizer: State) -> Stored:
        """Store the state of an optimizer."""
        return self._vault.write(encode(optimizer))

    def restore(self, entry: Entry) -> None:
        """Put an entry with rebuilt objects in the place of the one with lost ones."""
        self._ledger.objects.replace(entry.block, entry)
        self.entries[entry.block] = entry

    def rewrite(
        self,
        erasure: int,
        *,
        replaced: Sequence[Entry],
        stitched: Sequence[range],
        dropped: range = range(0),
        outcome: Outcome,
        contents: Mapping[int, Hashes],
    ) -> None:
        """Commit an erasure; see `Ledger.commit`."""
        self._ledger.erasures.commit(
            erasure,
            replaced=replaced,
            stitched=stitched,
            dropped=dropped,
            outcome=outcome,
            contents={block: packed(hashes) for block, hashes in contents.items()},
        )
        for at in dropped:
            self.entries[at] = replace(self.entries[at], **DROPPED, erasure=erasure)
        for span in stitched:
            for at in span:
                self.entries[at] = replace(self.entries[at], **STITCHED, erasure=erasure)
        for entry in replaced:
            self.entries[entry.block] = entry

    def sweep(self) -> Swept:
        """Destroy condemned objects and the orphans of a crash; see `custody.sweep`."""
        return sweep(self._ledger, self._vault)


def _present(stored: Stored | None, block: int) -> Stored:
    if stored is None:
        raise RunDamaged(
            f"block {block} has no object in the vault that its state could be read from",
            hint=PUT_BACK,
        )
    return stored
