"""The marker of a vault: whose it is, and the newest state of the ledger that wrote to it.

The ledger is written first and the marker after it. A ledger that is behind its vault's marker, or
tells another story, is therefore not the one that last wrote there: a copy, or an older one that
was put back. It would take the newer ledger's objects for nobody's, and delete them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from obliviate.errors import ForeignVault, OtherFormat, RunDamaged
from obliviate.vault.frames import FORMAT

if TYPE_CHECKING:
    from obliviate.vault.storage import Storage

MARKER_NAME = "obliviate.json"
OWN_PLACE = "give a place of its own, such as an empty prefix of a bucket"


@dataclass(frozen=True, kw_only=True)
class Marker:
    """What a vault says of itself.

    Attributes:
        vault: The identity of the vault, which no other has.
        number: The number of an entry of the journal that its ledger has; 0 while there is none.
        head: The hash of that entry.
        format: Of the objects.
    """

    vault: str
    number: int = 0
    head: str = ""
    format: int = FORMAT

    def write(self, storage: Storage) -> None:
        """Put it in the place of the one before."""
        storage.replace(MARKER_NAME, json.dumps(asdict(self)).encode())

    @classmethod
    def of(cls, storage: Storage, identity: str) -> Marker:
        """The marker of a storage that should be a vault of this identity.

        Raises:
            ForeignVault: It is another's.
            OtherFormat: Another version of Obliviate wrote there.
            RunDamaged: There is none.
            StorageFailed, ConnectionLost: The storage cannot be read.
        """
        data = storage.read(MARKER_NAME)
        try:
            values = json.loads(data)
            marker = cls(
                vault=str(values["vault"]),
                number=int(values["number"]),
                head=str(values["head"]),
                format=int(values["format"]),
            )
        except (ValueError, KeyError, TypeError):
            raise RunDamaged(
                f"{MARKER_NAME} in {storage.name} is not what was written: it does not say whose "
                "vault this is",
                hint=f"if this is the vault of the run and of no other, remove {MARKER_NAME} and "
                "call `obliviate verify RUN --repair`",
            ) from None
        if marker.format != FORMAT:
            raise OtherFormat(
                f"the vault in {storage.name} has format {marker.format}; this version reads "
                f"{FORMAT}",
                hint="use the version of obliviate that wrote it; nothing was changed",
            )
        if marker.vault != identity:
            raise ForeignVault(f"{storage.name} holds the vault of another run", hint=OWN_PLACE)
        return marker
