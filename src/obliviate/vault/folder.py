"""A folder of objects: written whole or not at all, and flushed to the disk."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from obliviate.errors import RunDamaged, StorageFull

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


class Folder:
    """A place in the local file system; see `Place`.

    An object is written to a temporary name, flushed to the disk and renamed: under its own name it
    is complete.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def write(self, key: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Store an object; see `Place`."""
        path = self.path / key
        temporary = path.with_suffix(".part")
        try:
            self._write_durably(path, temporary, pieces)
        except BaseException as error:
            for left in (temporary, path):
                with contextlib.suppress(OSError):  # a disk that cannot be written to
                    left.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise self._refused(error) from error
            raise

    def _write_durably(
        self, path: Path, temporary: Path, pieces: Iterable[bytes | memoryview]
    ) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        self._flush()

    def read(self, key: str) -> bytes:
        """The bytes of an object; see `Place`."""
        try:
            return (self.path / key).read_bytes()
        except OSError as error:
            raise RunDamaged(
                f"object {key} is missing from {self.name} ({error.strerror})",
                hint="see what can be rebuilt with `obliviate vault RUN --check`",
            ) from error

    def destroy(self, key: str) -> None:
        """Remove an object; see `Place`."""
        try:
            (self.path / key).unlink(missing_ok=True)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise self._refused(error) from error
            raise

    def __iter__(self) -> Iterator[str]:
        """The keys of all objects there are, unfinished ones too."""
        if self.path.exists():
            for path in self.path.iterdir():
                if not path.is_dir():
                    yield path.name

    def _flush(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _refused(self, error: OSError) -> StorageFull:
        return StorageFull(
            f"{self.name} cannot be written to ({error.strerror})",
            hint="make room or allow writing there, then call again; nothing was lost",
        )
