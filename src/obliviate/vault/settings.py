"""What a run says of its vault: where the objects lie, how they are sealed, how spaced."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate.errors import ForeignVault, InvalidOption
from obliviate.vault.folder import Folder
from obliviate.vault.marker import MARKER_NAME, OWN_PLACE
from obliviate.vault.seal import check_probe, probe_of, seal_of
from obliviate.vault.storage import kept_form, storage_of
from obliviate.vault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obliviate.vault.seal import Seal
    from obliviate.vault.storage import Storage

VAULT_NAME = "vault"


@dataclass(frozen=True, kw_only=True)
class VaultSettings:
    """What a run says of its vault; kept in its ledger.

    Attributes:
        identity: What no other vault has.
        url: Where the objects lie, an absolute path or a URL; in a folder inside the run's own if
            empty, which moves with it.
        seal: Where the master key is found again; empty where objects are in the clear.
        probe: What tells whether a master key is the right one.
        spacing: How many blocks lie between two keyframes; by the number of blocks if 0.
    """

    identity: str = ""
    url: str = ""
    seal: Mapping[str, str] = field(default_factory=dict)
    probe: str = ""
    spacing: int = 0

    @classmethod
    def new(cls, url: str | Path | None, seal: Seal | None, spacing: int = 0) -> VaultSettings:
        """The settings of a vault that does not exist yet.

        Raises:
            InvalidOption: This is no path and no URL.
            KeyMissing: The master key cannot be had.
        """
        address = "" if url is None else kept_form(url)
        if address:
            storage_of(address)  # refuses what cannot be reached
        settings = cls(identity=uuid.uuid4().hex, url=address, spacing=spacing)
        return settings if seal is None else settings.sealed(seal)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> VaultSettings:
        """The settings that a ledger holds."""
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """The settings as a ledger holds them."""
        return asdict(self)

    def sealed(self, seal: Seal) -> VaultSettings:
        """The same, with a master key."""
        probe = probe_of(seal, self.identity.encode())
        return replace(self, seal=seal.reference(), probe=probe)

    def opened(self, folder: Path, seal: Seal | None) -> Vault:
        """The vault, for the run in a folder.

        Args:
            folder: Of the run.
            seal: The master key; where it is found again if None.

        It is not asked yet whether the storage is the run's: see `custody.opened`.

        Raises:
            WrongKey, KeyMissing: The master key is another, or cannot be had.
        """
        return Vault(self._storage(folder), self._seal(seal), self.identity)

    def unread(self, folder: Path) -> Vault:
        """The vault without its master key: for whoever reads no object."""
        return Vault(self._storage(folder), None, self.identity)

    def check_free(self, folder: Path) -> None:
        """See that a run can have its vault there, without touching anything.

        Raises:
            InvalidOption: It is in the run's own folder, where only `vault` is its vault, or the
                other way round.
            ForeignVault: Something else is in that storage.
            StorageFailed, ConnectionLost: It cannot be read.
        """
        if not self.url:
            return
        if "://" not in self.url:
            path, own = Path(self.url), folder / VAULT_NAME
            if path in (folder, *folder.parents) or (folder in path.parents and path != own):
                raise InvalidOption(
                    f"the vault {path} and the run's folder {folder} lie in each other",
                    hint=f"leave the vault out: then it is {own}; or give a place beside",
                )
        storage = self._storage(folder)
        if isinstance(storage, Folder):
            storage.check_possible()
        self._check_free(storage)

    def claimed(self, folder: Path, seal: Seal | None) -> Vault:
        """The vault, empty, for a run that is being made.

        Raises:
            ForeignVault: Something else is in that storage.
            StorageFull, StorageFailed, ConnectionLost: It cannot be written to.
        """
        storage = self._storage(folder)
        vault = Vault(storage, self._seal(seal), self.identity)
        self._check_free(storage)
        storage.make()
        if MARKER_NAME not in set(storage):
            vault.mark(0, "")
        for key in list(vault):  # what a killed call left
            vault.destroy(key)
        return vault

    def _check_free(self, storage: Storage) -> None:
        keys = {*storage, *storage.others()} - {f"{MARKER_NAME}.part"}
        if MARKER_NAME in keys:
            Vault(storage, None, self.identity).marker()
        elif keys:
            raise ForeignVault(
                f"{storage.name} holds something else, such as {min(keys)}", hint=OWN_PLACE
            )

    def _seal(self, seal: Seal | None) -> Seal | None:
        if not self.seal:
            return None
        seal = seal_of(self.seal, seal)
        check_probe(seal, self.probe, self.identity.encode())
        return seal

    def _storage(self, folder: Path) -> Storage:
        return storage_of(self.url) if self.url else Folder(folder / VAULT_NAME)
