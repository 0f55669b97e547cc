"""Terms: what a run says of its vault. Where the objects lie, how they are sealed, how spaced."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from obliviate.errors import ForeignVault, ObliviateError, OtherFormat
from obliviate.vault.folder import Folder
from obliviate.vault.frames import FORMAT
from obliviate.vault.place import place_of
from obliviate.vault.seal import check_probe, probe_of, seal_of
from obliviate.vault.store import MARKER_NAME, Vault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from obliviate.vault.place import Place
    from obliviate.vault.seal import Seal

VAULT_NAME = "vault"
_ELSEWHERE = "give a place of its own, such as an empty prefix of a bucket"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a run says of its vault; kept in its ledger.

    Attributes:
        identity: What no other vault has.
        url: Where the objects lie; in a folder of the run's own if empty.
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
    def new(cls, url: str | None, seal: Seal | None, spacing: int = 0) -> Terms:
        """The terms of a vault that does not exist yet.

        Raises:
            InvalidOption: The URL is none.
            KeyMissing: The master key cannot be had.
        """
        if url is not None:
            place_of(url)
        terms = cls(identity=uuid.uuid4().hex, url=url or "", spacing=spacing)
        return terms if seal is None else terms.sealed(seal)

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Terms:
        """What a ledger says."""
        return cls(**said)

    def said(self) -> dict[str, Any]:
        """What a ledger is to say."""
        return asdict(self)

    def sealed(self, seal: Seal) -> Terms:
        """The same, with a master key."""
        probe = probe_of(seal, self.identity.encode())
        return replace(self, seal=seal.reference(), probe=probe)

    def opened(self, folder: Path, seal: Seal | None) -> Vault:
        """The vault, for the run in a folder.

        Args:
            folder: Of the run.
            seal: The master key; where it is found again if None.

        Raises:
            WrongKey, KeyMissing: The master key is another, or cannot be had.
            ForeignVault: The place is not the run's.
            OtherFormat: Another version of Obliviate wrote there.
            ConnectionLost: The place cannot be reached.
        """
        place = self._place(folder)
        if self.url:
            self._check_marker(place)
        return Vault(place, self._seal(seal), self.identity)

    def claimed(self, folder: Path, seal: Seal | None) -> Vault:
        """The vault, empty, for a run that is being made.

        Raises:
            ForeignVault: Something else is in that place.
            StorageFull, ConnectionLost: It cannot be written to.
        """
        place = self._place(folder)
        vault = Vault(place, self._seal(seal), self.identity)
        if self.url:
            keys = set(place)
            if MARKER_NAME in keys:
                self._check_marker(place)
            elif keys:
                raise ForeignVault(
                    f"{place.name} holds something else, such as {min(keys)}", hint=_ELSEWHERE
                )
            else:
                said = {"format": FORMAT, "vault": self.identity}
                place.write(MARKER_NAME, [json.dumps(said).encode()])
        for key in list(vault):  # what a killed call left
            vault.destroy(key)
        return vault

    def _seal(self, given: Seal | None) -> Seal | None:
        if not self.seal:
            return None
        seal = seal_of(self.seal, given)
        check_probe(seal, self.probe, self.identity.encode())
        return seal

    def _place(self, folder: Path) -> Place:
        return place_of(self.url) if self.url else Folder(folder / VAULT_NAME)

    def _check_marker(self, place: Place) -> None:
        try:
            said = json.loads(place.read(MARKER_NAME))
            identity, form = str(said["vault"]), int(said["format"])
        except (ValueError, KeyError, TypeError):
            identity, form = "", FORMAT
        except ObliviateError as error:
            error.message += "; it is not the vault of this run, or it was emptied"
            raise
        if form != FORMAT:
            raise OtherFormat(
                f"the vault in {place.name} has format {form}; this version reads {FORMAT}",
                hint="use the version of obliviate that wrote it; nothing was changed",
            )
        if identity != self.identity:
            raise ForeignVault(f"{place.name} holds the vault of another run", hint=_ELSEWHERE)
