"""What the vault asks of wherever its objects lie: a folder, a bucket, memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from obliviate.disk.paths import absolute
from obliviate.errors import InvalidOption
from obliviate.vault.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LOCAL = {"file", "local"}


class Storage(Protocol):
    """Named objects that are there in full or not at all.

    Attributes:
        name: Where it is, for messages; never with a secret.
    """

    name: str

    def make(self) -> None:
        """Make the storage, where that is needed before something can be written.

        Nothing else makes it: what was moved away is missed, not begun anew.

        Raises:
            StorageFull, StorageFailed: It cannot be made.
        """
        ...

    def write(
        self, key: str, pieces: Iterable[bytes | memoryview], *, is_durable: bool = True
    ) -> None:
        """Store an object, given piece by piece, under a key that is new.

        Whatever the pieces raise comes out as it is, and no object is left behind.

        Args:
            key: Its name.
            pieces: Its bytes.
            is_durable: Whether it is to survive a loss of power from now on; see `flush`.

        Raises:
            StorageFull: There is no room, or no permission; nothing is left behind.
            StorageFailed: The disk failed for the moment; nothing is left behind.
            ConnectionLost: It cannot be reached; something may be left behind, as an orphan.
        """
        ...

    def flush(self, keys: Iterable[str]) -> None:
        """Make objects durable that were written without.

        Raises:
            StorageFull, StorageFailed: It cannot be done; none of them is left behind.
        """
        ...

    def replace(self, key: str, data: bytes) -> None:
        """Store a small object, durably, in the place of what is under that key.

        Where this fails, the one before is there, or the new one.

        Raises:
            StorageFull, StorageFailed, ConnectionLost: See `write`.
        """
        ...

    def read(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            RunDamaged: It is missing, or cannot be read.
            StorageFailed, ConnectionLost: The storage cannot be reached for the moment.
        """
        ...

    def destroy(self, key: str) -> None:
        """Remove an object; one that is gone already is no error.

        Raises:
            RunDamaged: It is a link to something else.
            StorageFull: There is no permission.
            StorageFailed, ConnectionLost: The storage cannot be reached for the moment.
        """
        ...

    def __iter__(self) -> Iterator[str]:
        """The keys of all objects there are, unfinished ones too.

        Raises:
            StorageFull: There is no such bucket, or no permission.
            StorageFailed, ConnectionLost: The storage cannot be reached for the moment.
        """
        ...

    def others(self) -> Iterator[str]:
        """The names of what lies there and is no object: folders, links."""
        ...


def storage_of(where: str | Path) -> Storage:
    """The storage that a path or a URL names; nothing is made there yet.

    Raises:
        InvalidOption: The URL holds a secret, or names nothing that can be reached from here.
    """
    address = kept_form(where)
    if "://" not in address:
        return Folder(Path(address))
    from obliviate.vault.bucket import Bucket  # noqa: PLC0415 - others need no fsspec

    return Bucket(address)


def kept_form(where: str | Path, what: str = "the vault") -> str:
    """A storage as a run keeps it: an absolute path, whatever the working directory is, or a URL.

    Args:
        where: It.
        what: What it is of, for messages.

    Raises:
        InvalidOption: It is neither, or a URL of a folder that is not on this computer.
    """
    if not isinstance(where, str) or "://" not in where:
        return str(absolute(where, what))
    scheme, _, rest = where.partition("://")
    if scheme.lower() not in _LOCAL:
        return where.rstrip("/") if rest.strip("/") else where
    url = urlsplit(f"file://{rest}")
    if url.netloc not in {"", "localhost"} or not url.path.strip("/"):
        raise InvalidOption(
            f"the URL {where} names no folder of this computer",
            hint="give a path, or a URL such as file:///data/run: with three slashes",
        )
    if "#" in where or "?" in where:
        raise InvalidOption(
            f"the URL {where} has a query or a fragment, which no folder has",
            hint="give the path itself, or write %3F for ? and %23 for #",
        )
    return str(absolute(unquote(url.path), what))
