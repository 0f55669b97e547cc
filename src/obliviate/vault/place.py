"""What the vault asks of wherever its objects lie: a folder, a bucket, memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

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
        """The keys of all objects there are, unfinished ones too.

        Raises:
            StorageFull: There is no such bucket, or no permission.
            ConnectionLost: The place cannot be reached.
        """
        ...


def place_of(where: str | Path) -> Place:
    """The place that a path or a URL names; nothing is made there yet.

    Raises:
        InvalidOption: The URL holds a secret, or names nothing that can be reached from here.
    """
    text = str(where)
    if isinstance(where, Path) or "://" not in text:
        return Folder(Path(where))
    if not text.startswith("file://"):
        from obliviate.vault.bucket import Bucket  # noqa: PLC0415 - others need no fsspec

        return Bucket(text)
    url = urlsplit(text)
    if url.netloc not in {"", "localhost"} or not url.path:
        raise InvalidOption(
            f"the URL {text} names no folder of this computer",
            hint="give a path, or a URL such as file:///data/run: with three slashes",
        )
    return Folder(Path(unquote(url.path)))
