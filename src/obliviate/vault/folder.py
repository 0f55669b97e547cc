"""A folder of objects: written whole or not at all, and flushed to the disk."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from obliviate.disk.paths import flush, is_passing, named, naming
from obliviate.errors import InvalidOption, RunDamaged
from obliviate.vault.retry import retrying
from obliviate.vault.storage_errors import lost

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_HAS_EFFECTIVE = os.access in os.supports_effective_ids  # whoever the process acts for
_NEW, _PRIVATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
_BRIEFLY = retrying(is_passing, attempts=3, first_pause_seconds=0.02, total_seconds=1.0)
_UNREADABLE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EIO}
"""Where another call helps no more than this one, but making the object again may."""


class Folder:
    """A storage in the local file system; see `Storage`.

    An object is written to a temporary name, flushed to the disk and renamed: under its own name it
    is complete. Where many are to be durable together, they are flushed later, in one go. Reading,
    listing and destroying are tried again for a moment where they fail in passing; writing is not,
    for a disk that failed to flush may say next time that all is well.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def check_possible(self) -> None:
        """See that there is such a folder or could be, without making it.

        Raises:
            InvalidOption: Something else is in its place.
            StorageFull: It may not be made, or not be written to.
        """
        with self._naming():
            there = next(path for path in (self.path, *self.path.parents) if path.exists())
            if not there.is_dir():
                raise InvalidOption(
                    f"{self.path} cannot be a folder of objects: {there} is a file",
                    hint="give a folder, or a path where one can be made",
                )
            if not os.access(there, os.W_OK | os.X_OK, effective_ids=_HAS_EFFECTIVE):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def make(self) -> None:
        """Make the folder, if it is not there; see `Storage`."""
        with self._naming():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(
        self, key: str, pieces: Iterable[bytes | memoryview], *, is_durable: bool = True
    ) -> None:
        """Store an object; see `Storage`."""
        path = self.path / key
        temporary = path.with_name(f"{key}.part")
        try:
            self._fill(temporary, pieces, is_durable=is_durable)
            with self._naming():
                temporary.rename(path)
                if is_durable:
                    flush(self.path)
        except BaseException:
            _unlink(temporary, path)
            raise

    def flush(self, keys: Iterable[str]) -> None:
        """Make objects durable; see `Storage`."""
        paths = [self.path / key for key in keys]
        try:
            with self._naming():
                for path in paths:
                    flush(path)
                flush(self.path)
        except BaseException:
            _unlink(*paths)
            raise

    def replace(self, key: str, data: bytes) -> None:
        """Store an object in the place of what is there; see `Storage`."""
        temporary = self.path / f"{key}.part"
        try:
            with self._naming():
                temporary.unlink(missing_ok=True)  # what a killed call left
            self._fill(temporary, [data], is_durable=True)
            with self._naming():
                temporary.rename(self.path / key)
                flush(self.path)
        except BaseException:
            _unlink(temporary)
            raise

    def read(self, key: str) -> bytes:
        """The bytes of an object; see `Storage`."""
        try:
            return _BRIEFLY((self.path / key).read_bytes)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise named(error, self.name) from error
            is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            raise lost(key, self.name, str(error.strerror), is_missing=is_missing) from error

    def destroy(self, key: str) -> None:
        """Remove an object; see `Storage`."""
        path = self.path / key
        with self._naming():
            if _BRIEFLY(path.is_symlink):
                raise RunDamaged(
                    f"{path} is a link, and what it leads to is not for the vault to destroy",
                    hint="remove the link, and what it leads to if that is the vault's; then call "
                    "again",
                )
            _BRIEFLY(lambda: path.unlink(missing_ok=True))

    def __iter__(self) -> Iterator[str]:
        """The keys of all objects there are, unfinished ones too."""
        return iter([name for name, is_file in self._listed() if is_file])

    def others(self) -> Iterator[str]:
        """The names of what is no object; see `Storage`."""
        return iter([name for name, is_file in self._listed() if not is_file])

    def _listed(self) -> list[tuple[str, bool]]:
        def listed() -> list[tuple[str, bool]]:
            with os.scandir(self.path) as entries:
                return [(each.name, each.is_file(follow_symlinks=False)) for each in entries]

        with self._naming():
            try:
                return _BRIEFLY(listed)
            except FileNotFoundError:
                return []

    def _fill(
        self, temporary: Path, pieces: Iterable[bytes | memoryview], *, is_durable: bool
    ) -> None:
        with self._naming():
            file = os.fdopen(os.open(temporary, _NEW, _PRIVATE), "wb")
        try:
            for piece in pieces:  # what these raise is not the disk's
                with self._naming():
                    file.write(piece)
            with self._naming():
                file.flush()
                if is_durable:
                    os.fsync(file.fileno())
                file.close()
        finally:
            with contextlib.suppress(OSError):
                file.close()

    def _naming(self) -> contextlib.AbstractContextManager[None]:
        return naming(self.name)


def _unlink(*paths: Path) -> None:
    for path in paths:
        with contextlib.suppress(OSError):  # a disk that cannot be written to
            path.unlink(missing_ok=True)
