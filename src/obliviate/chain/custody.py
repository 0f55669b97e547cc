"""Custody of a vault: its ledger is the newest there is, and only what is nobody's is swept.

Whoever writes an object says so first in the journal, by an entry that no other ledger has, and
then in the vault's marker. So a ledger that is behind the marker, or has another entry in that
place, is a copy or was put back from one: it would take the objects of the newer one for nobody's.
It is refused wherever it is opened, and asked again before anything is destroyed.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from obliviate.errors import (
    ConnectionLost,
    ObliviateError,
    RunDamaged,
    RunOutdated,
    StorageFailed,
    StorageFull,
)
from obliviate.text import counted
from obliviate.vault import VaultSettings
from obliviate.vault.folder import Folder

if TYPE_CHECKING:
    from pathlib import Path

    from obliviate.ledger import Ledger
    from obliviate.vault import Seal, Vault

_TOKEN_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What came of sweeping.

    Attributes:
        destroyed: Condemned objects that are gone now.
        removed: Objects that no row named, and that are gone now.
        spared: The same, left because objects in use are missing.
        missing: Objects in use that are not there.
    """

    destroyed: tuple[str, ...]
    removed: tuple[str, ...]
    spared: tuple[str, ...]
    missing: tuple[str, ...]


def opened(ledger: Ledger, folder: Path, seal: Seal | None) -> Vault:
    """The vault of the run in a folder.

    Raises:
        WrongKey, KeyMissing: The master key is another, or cannot be had.
        ForeignVault: The place is not the run's.
        RunOutdated: Another ledger than this one last wrote there.
        OtherFormat: Another version of Obliviate wrote there.
        RunDamaged: It lies elsewhere, and does not say whose it is.
        StorageFailed, ConnectionLost: The place cannot be reached.
    """
    settings = VaultSettings.of(ledger.run().vault)
    vault = settings.opened(folder, seal)
    try:
        check_newest(ledger, vault)
    except RunOutdated:
        raise
    except RunDamaged as error:
        if settings.url:
            error.message += "; it is not the vault of this run, or it was emptied"
            raise
        # whose a folder inside the run's is, is plain; before anything is written it is asked again
    return vault


def check_newest(ledger: Ledger, vault: Vault) -> None:
    """See that no newer ledger than this one has written to the vault.

    Raises:
        RunOutdated: One has.
        RunDamaged: The vault does not say.
        ForeignVault: It is another run's.
        StorageFailed, ConnectionLost: It cannot be reached.
    """
    marker = vault.marker()
    if marker.number and ledger.journal.hash_of(marker.number) != marker.head:
        raise RunOutdated(
            f"the ledger {ledger.where} is older than the one that last wrote to the vault "
            f"{vault.storage.name}, or another one: it is a copy, or was put back from a copy",
            hint="go on with the folder of the run that wrote last; where that is lost, put back "
            "its whole folder and its vault from one and the same copy, or make the run anew in "
            "another folder, leaving out whoever was erased since; nothing was deleted",
        )


def refuse_outdated(ledger: Ledger, folder: Path) -> None:
    """See that a ledger is not known to be outdated, where only the ledger is read.

    Raises:
        RunOutdated, ForeignVault: See `check_newest`.
    """
    try:
        check_newest(ledger, VaultSettings.of(ledger.run().vault).unread(folder))
    except RunOutdated:
        raise
    except (RunDamaged, StorageFailed, ConnectionLost):
        return  # the vault is lost or out of reach: nothing is known against the ledger


def begin(ledger: Ledger, vault: Vault, *, is_mending: bool = False) -> None:
    """See that this ledger is the one that may write; under the lease.

    The vault is let know before the first object is written: a call that finds nothing to do
    changes nothing.

    Args:
        ledger: It.
        vault: Its vault.
        is_mending: Whether a marker that is lost is made again.

    Raises:
        RunOutdated, RunDamaged, ForeignVault: See `check_newest`.
        StorageFull, StorageFailed, ConnectionLost: The vault cannot be written to.
    """
    try:
        check_newest(ledger, vault)
    except RunOutdated:
        raise
    except RunDamaged as error:
        _check_ours(ledger, vault, error)
        if not is_mending:
            error.hint = (
                "if the run was moved while it was open, load it from where it is now; if its "
                "vault is lost, `obliviate verify RUN --repair` makes it again as far as it can"
            )
            raise
        vault.storage.make()
        mark(ledger, vault)
    vault.fresh.clear()
    vault.announcing = functools.partial(_announce, ledger, vault)


def _announce(ledger: Ledger, vault: Vault) -> None:
    ledger.journal.begin_writing(secrets.token_hex(_TOKEN_BYTES))
    mark(ledger, vault)


def mark(ledger: Ledger, vault: Vault) -> None:
    """Let the vault know what its ledger says by now: no older one is its ledger any more."""
    vault.mark(*ledger.journal.end())


def forsake(ledger: Ledger, vault: Vault) -> None:
    """Destroy what this process wrote and cannot commit any more, having lost the lease.

    No row will ever name it: only who wrote an object knows its key before it is committed.
    """
    with contextlib.suppress(ObliviateError):  # then the next writer sweeps it
        known = {each.stored.key for each in ledger.objects.all()}
        for key in vault.fresh - known:
            vault.destroy(key)


def _check_ours(ledger: Ledger, vault: Vault, error: RunDamaged) -> None:
    """See that whatever lies in a vault without a marker is known to the ledger."""
    storage = vault.storage
    if isinstance(storage, Folder) and not storage.path.parent.is_dir():
        raise RunDamaged(
            f"{storage.path.parent} is gone, where the vault was",
            hint="load the run from where it is now; nothing was written",
        ) from error
    known = {each.stored.key for each in ledger.objects.all()}
    unknown = {key.removesuffix(".part") for key in vault} - known
    if unknown:
        raise RunDamaged(
            f"{error.message}, and {len(unknown)} of the objects there are not in the ledger, such "
            f"as {min(unknown)}",
            hint="this may be the vault of another run, or of a newer ledger of this one: put back "
            "the run's whole folder and its vault from one and the same copy; nothing was deleted",
        ) from error


def sweep(ledger: Ledger, vault: Vault) -> Swept:
    """Destroy condemned objects, and those that no row names; nothing else that lies there.

    While an object in use is missing, what no row names is left alone: whatever lost the one could
    have lost the rows of the other.

    Raises:
        LeaseLost: Another process took the run over in the meantime.
        RunOutdated, RunDamaged, ForeignVault: See `check_newest`.
        StorageFull, StorageFailed, ConnectionLost: The vault cannot be written to.
    """
    there = set(vault)
    # from before a moment at which nobody else could write: none of it is another's new object
    check_newest(ledger, vault)
    ledger.lease.check()
    objects = ledger.objects
    condemned, live = objects.keys("condemned"), objects.keys("live")
    missing, nobodys = live - there, there - live - condemned
    if condemned:
        with contextlib.suppress(StorageFull):  # on a full disk, destroying is what makes room
            mark(ledger, vault)  # no ledger that still holds them live may come back
    is_wiped = objects.wipe(condemned)
    removed = set() if missing else nobodys
    gone = {key for key in condemned if _is_destroyed(vault, key)}
    for key in removed:
        vault.destroy(key)
    if is_wiped:  # else they stay condemned, until nobody reads from before any more
        objects.mark_destroyed(gone)
    return Swept(
        destroyed=tuple(sorted(gone)),
        removed=tuple(sorted(removed)),
        spared=tuple(sorted(nobodys - removed)),
        missing=tuple(sorted(missing)),
    )


def remove_orphans(ledger: Ledger, vault: Vault) -> tuple[str, ...]:
    """Remove what no row names, while nobody else writes: it could be theirs.

    Returns:
        The names of the objects that were removed.

    Raises:
        RunLocked: Another live process writes to the run.
        LeaseLost: Another process took the run over in the meantime; nothing was removed.
        RunOutdated: The ledger is an older one than the vault's.
        RunDamaged: Objects in use are missing, so that the ledger may not know what is nobody's.
    """
    for _ in ledger.lease.held(patience_seconds=0):
        pass  # it is taken at once or not at all
    try:
        begin(ledger, vault)
        swept = sweep(ledger, vault)
    finally:
        ledger.lease.release()
    if swept.spared:
        raise RunDamaged(
            f"{counted(len(swept.missing), 'object')} in use missing from {vault.storage.name}, "
            f"such as {swept.missing[0]}: {counted(len(swept.spared), 'orphan')} left alone",
            hint="make them again with `obliviate verify RUN --repair` first; where the ledger was "
            "put back from a copy, put back the vault from the same copy",
        )
    return swept.removed


def _is_destroyed(vault: Vault, key: str) -> bool:
    try:
        vault.destroy(key)
    except RunDamaged:  # a link: it stays condemned, and `vault RUN` names it
        return False
    return True
