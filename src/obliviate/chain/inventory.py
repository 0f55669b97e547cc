"""The inventory of a vault: what lies there, what is damaged, and how it can be had back.

Whatever is exact can be made again: the initial state from the recipe, a block by replaying it from
the checkpoint before. What was stitched cannot, but `settle` puts exact states in its place.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from obliviate.errors import Mismatch, RunDamaged
from obliviate.events import Event

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from obliviate.chain.chain import Chain
    from obliviate.ledger import Entry, Ledger, ObjectFacts
    from obliviate.vault import Vault

Role = Literal["update", "keyframe", "optimizer"]
Remedy = Literal["remake", "join", "replay", "settle"]

ROLES: tuple[Role, ...] = ("update", "keyframe", "optimizer")
REMEDIES: Mapping[Remedy, str] = {
    "remake": "made again from the recipe",
    "join": "put together from the states around it",
    "replay": "made again by replaying the block",
    "settle": "lost: it was stitched; `obliviate settle` puts exact states in its place",
}


@dataclass(frozen=True, kw_only=True)
class Lost:
    """An object that is missing or not what was written.

    Attributes:
        block: The block whose checkpoint needs it.
        role: What it is to the block.
        key: Its name in the vault.
        reason: What was found.
        remedy: How it can be had back: all but "settle" by `verify` with `repair`.
    """

    block: int
    role: Role
    key: str
    reason: str
    remedy: Remedy


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What lies in a vault.

    Attributes:
        place: Where it is.
        is_sealed: Whether its objects are encrypted.
        objects: All that the ledger knows, also those that are destroyed.
        uses: Block and role of each object in use, by key; several blocks never share one.
        orphans: Objects that are there and no row names as live or condemned.
        foreign: Names of what else lies there, which is no object and is never touched.
        missing: Objects in use that are not there; while there are any, orphans are left alone.
        lost: What is damaged, where that was looked at.
        faults: What is wrong with the ledger itself, where that was looked at.
        is_checked: Whether it was.
    """

    place: str
    is_sealed: bool
    objects: tuple[ObjectFacts, ...]
    uses: Mapping[str, tuple[int, Role]]
    orphans: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    lost: tuple[Lost, ...] = ()
    faults: tuple[str, ...] = ()
    is_checked: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """How many objects there are in each state."""
        return dict(Counter(each.state for each in self.objects))

    def size_bytes(self, role: Role | None = None) -> int:
        """The bytes of live objects, of one role or of all."""
        return sum(
            each.stored.size_bytes
            for each in self.objects
            if each.state == "live" and (role is None or self._role(each) == role)
        )

    def count(self, role: Role) -> int:
        """How many live objects have a role."""
        return sum(self._role(each) == role for each in self.objects if each.state == "live")

    def _role(self, facts: ObjectFacts) -> Role | None:
        return self.uses.get(facts.stored.key, (0, None))[1]


def held_by(entry: Entry) -> Iterator[tuple[Role, str]]:
    """The objects of an entry, by role."""
    for role in ROLES:
        stored = getattr(entry, role)
        if stored is not None:
            yield role, stored.key


def taking_stock(
    ledger: Ledger, vault: Vault, chain: Chain, *, check: bool = False
) -> Generator[Event, None, Inventory]:
    """List a vault, and read every object of the chain if it is to be checked.

    Raises:
        ConnectionLost: The place cannot be reached.
        KeyMissing, WrongKey: Objects are sealed, and the master key is not the run's.
    """
    there = set(vault)  # listed first: what is written meanwhile is nobody's orphan
    foreign, objects = vault.foreign(), tuple(ledger.objects.all())
    live = {each.stored.key for each in objects if each.state == "live"}
    condemned = {each.stored.key for each in objects if each.state == "condemned"}
    lost = (yield from losses(chain)) if check else ()
    return Inventory(
        place=vault.storage.name,
        is_sealed=vault.is_sealed,
        objects=objects,
        uses={key: (entry.block, role) for entry in chain.entries for role, key in held_by(entry)},
        orphans=tuple(sorted(there - live - condemned)),
        foreign=tuple(sorted(foreign)),
        missing=tuple(sorted(live - there - foreign)),
        lost=lost,
        faults=tuple(ledger.faults()) if check else (),
        is_checked=check,
    )


def losses(chain: Chain) -> Generator[Event, None, tuple[Lost, ...]]:
    """Read every object of a chain and say what is damaged, and how it can be had back."""
    found: dict[tuple[int, Role], str] = {}
    for entry in chain.entries:
        yield Event(task="check", done=entry.block, total=len(chain.entries), block=entry.block)
        for role, _ in held_by(entry):
            try:
                chain.check(entry, role)
            except (RunDamaged, Mismatch) as error:
                found[entry.block, role] = error.message
    remedies = remedies_of(chain.entries, found)
    return tuple(
        Lost(
            block=block,
            role=role,
            key=getattr(chain.entries[block], role).key,
            reason=reason,
            remedy=remedies[block, role],
        )
        for (block, role), reason in found.items()
    )


def remedies_of(
    entries: Sequence[Entry], lost: Iterable[tuple[int, Role]]
) -> dict[tuple[int, Role], Remedy]:
    """How each lost object can be had back, if all are, from the first block on."""
    roles: dict[int, set[Role]] = {}
    for block, role in lost:
        roles.setdefault(block, set()).add(role)
    remedies: dict[tuple[int, Role], Remedy] = {}
    is_restorable = True  # the state of the block before
    for entry in entries:
        gone = roles.get(entry.block, set())
        if gone:
            before = entries[max(entry.block - 1, 0)]
            remedy = _remedy(entry, before, gone, is_restorable=is_restorable)
            remedies |= {(entry.block, role): remedy for role in gone}
            is_restorable = _is_restored(entry, gone, remedy, is_restorable=is_restorable)
        elif entry.keyframe is not None:
            is_restorable = True
        elif entry.origin == "dropped":
            is_restorable = False
    return remedies


def _remedy(entry: Entry, before: Entry, gone: set[Role], *, is_restorable: bool) -> Remedy:
    if entry.block == 0:
        return "remake"
    is_exact = entry.guarantee == before.guarantee == "exact"
    if gone == {"update"} and entry.keyframe is not None and is_restorable:
        return "join"
    return "replay" if is_exact and is_restorable else "settle"


def _is_restored(entry: Entry, gone: set[Role], remedy: Remedy, *, is_restorable: bool) -> bool:
    if remedy != "settle":
        return True
    has_state = entry.keyframe is not None and "keyframe" not in gone
    return has_state or (is_restorable and "update" not in gone and entry.keyframe is None)
