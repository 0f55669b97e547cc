"""What the vault asks of wherever its objects lie: a folder, a bucket, memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from obliviate.errors import InvalidOption
from obliviate.vault.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Place(Protocol):
    """Named objects that are there in full or not at all.

    Attributes:
        name: Where it is, for messages; never with a secret.
    """

    name: str

    def write(self, key: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Store an object durably, given piece by piece, under a key that is new.

        Whatever the pieces raise comes out as it is, and no object is left behind.

        Raises:
            StorageFull: There is no room, or no permission; nothing is left behind.
            ConnectionLost: It cannot be reached; something may be left behind, as an orphan.
        """
        ...

    def read(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            RunDamaged: It is missing, or cannot be read.
            ConnectionLost: The place cannot be reached.
        """
        ...

    def destroy(self, key: str) -> None:
        """Remove an object; one that is gone already is no error.

        Raises:
            StorageFull: There is no permission.
            ConnectionLost: The place cannot be reached.
        """
        ...

    def __iter__(self) -> Iterator[str]:
        """The keys of all objects there are, unfinished ones too."""
        ...


def place_of(url: str) -> Place:
    """The place that a path or a URL names.

    Raises:
        InvalidOption: It names none that is known.
    """
    if "://" not in url:
        return Folder(Path(url))
    raise InvalidOption(f"{url}", hint="soon")
