"""Objects on disk: written whole or not at all, and checked against their hash when read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from obliviate.errors import RunDamaged, StorageFull

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One object of the vault, as the ledger knows it.

    Attributes:
        key: Its name in the vault; random, never used twice.
        size_bytes: Its length.
        sha256: The hash of its bytes, in hex.
    """

    key: str
    size_bytes: int
    sha256: str


class Vault:
    """A folder of immutable objects.

    An object is written to a temporary name, flushed to the disk and renamed: under its own name it
    is complete. It belongs to the run only once the ledger names it; what the ledger does not name
    is an orphan of a crash.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, pieces: Iterable[bytes | memoryview]) -> Stored:
        """Store some bytes, given piece by piece, durably under a new key.

        Raises:
            StorageFull: There is no room, or no permission; nothing is left behind.
        """
        path = self._path(uuid.uuid4().hex)
        temporary = path.with_suffix(".part")
        try:
            size_bytes, sha256 = self._write_durably(path, temporary, pieces)
        except BaseException as error:
            for left in (temporary, path):
                with contextlib.suppress(OSError):  # a disk that cannot be written to
                    left.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise StorageFull(
                    f"{self.folder} cannot take another object ({error.strerror})",
                    hint="make room or allow writing there, then call again; nothing was lost",
                ) from error
            raise
        return Stored(key=path.name, size_bytes=size_bytes, sha256=sha256)

    def _write_durably(
        self, path: Path, temporary: Path, pieces: Iterable[bytes | memoryview]
    ) -> tuple[int, str]:
        sha, size_bytes = hashlib.sha256(), 0
        self.folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            for piece in pieces:
                file.write(piece)
                sha.update(piece)
                size_bytes += len(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        _flush_folder(self.folder)
        return size_bytes, sha.hexdigest()

    def read(self, stored: Stored) -> bytes:
        """The bytes of an object.

        Raises:
            RunDamaged: It is missing, or not what was written.
        """
        try:
            data = self._path(stored.key).read_bytes()
        except OSError as error:
            raise RunDamaged(
                f"object {stored.key} is missing from {self.folder} ({error.strerror})",
                hint="restore it from a copy of the run folder, or make the run again",
            ) from error
        if hashlib.sha256(data).hexdigest() != stored.sha256:
            raise RunDamaged(
                f"object {stored.key} in {self.folder} is not what was written: its sha256 differs",
                hint="restore it from a copy of the run folder, or make the run again",
            )
        return data

    def destroy(self, key: str) -> None:
        """Remove an object; one that is gone already is no error."""
        self._path(key).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[str]:
        """The keys of all objects there are, unfinished ones too."""
        if self.folder.exists():
            for path in self.folder.iterdir():
                if not path.is_dir():
                    yield path.name

    def _path(self, key: str) -> Path:
        return self.folder / key


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
