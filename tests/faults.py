"""Faults of the disk, one at a time: the n-th call below some folder fails, once.

What is patched is the system's own functions, as they are called by whatever handles files here,
and the driver of SQLite, whose own calls cannot be reached: a fault of the disk reaches us as its
error.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sqlite3
from pathlib import Path

NUMBERS = (errno.EIO, errno.EMFILE, errno.ENOSPC)
_OF_PATHS = ("open", "rename", "replace", "unlink", "mkdir", "rmdir", "listdir", "scandir", "stat")
_OF_FILES = ("fsync", "read", "write")


class Faults:
    """Counts calls below a folder, and lets one of them fail.

    Args:
        folder: Only what happens below it counts.
        at: Which call fails; none if negative.
        number: The error that it fails with.
    """

    def __init__(self, folder: Path, at: int = -1, number: int = errno.EIO) -> None:
        self.folder, self.at, self.number = str(folder), at, number
        self.calls: list[str] = []

    @property
    def has_failed(self) -> bool:
        """Whether it came to that call."""
        return 0 <= self.at < len(self.calls)

    def _count(self, name: str) -> bool:
        self.calls.append(name)
        return len(self.calls) - 1 == self.at

    def _is_below(self, place: object) -> bool:
        with contextlib.suppress(OSError, ValueError, TypeError):
            if isinstance(place, int):
                place = Path(f"/proc/self/fd/{place}").readlink()
            return os.fsdecode(place).startswith(self.folder)
        return False

    def system(self, name, real):
        """A function of the system that may fail."""

        def call(place=None, *arguments, **options):
            if self._is_below(place) and self._count(name):
                raise OSError(self.number, os.strerror(self.number), str(place))
            return real(place, *arguments, **options) if place is not None else real()

        return call

    def opening(self, real):
        """`io.open`, whose files may fail as well."""
        of_system = self.system("open", real)

        def opened(place, *arguments, **options):
            file = of_system(place, *arguments, **options)
            return _File(file, self) if self._is_below(place) else file

        return opened

    def fail(self, name: str) -> None:
        """Fail if it is this call's turn."""
        if self._count(name):
            raise OSError(self.number, os.strerror(self.number))

    @contextlib.contextmanager
    def active(self, patch):
        """Let calls fail meanwhile; `patch` is pytest's monkeypatch."""
        with patch.context() as inner:
            for name in (*_OF_PATHS, "lstat"):
                if name != "open":
                    inner.setattr(os, name, self.system(name, getattr(os, name)))
            inner.setattr(os, "open", self.system("open", os.open))
            inner.setattr(os, "fsync", self.system("fsync", os.fsync))
            inner.setattr(io, "open", self.opening(io.open))
            inner.setattr(sqlite3.dbapi2, "connect", self._connecting(sqlite3.dbapi2.connect))
            yield self

    def _connecting(self, real):
        faults = self

        class Failing(sqlite3.Connection):
            """A connection whose statements may fail as on a broken disk."""

            def cursor(self, *arguments, **options):
                faults.fail_sqlite(self)
                return super().cursor(*arguments, **options)

            def execute(self, *arguments, **options):
                faults.fail_sqlite(self)
                return super().execute(*arguments, **options)

            def commit(self):
                faults.fail_sqlite(self)
                return super().commit()

        def connect(database, *arguments, **options):
            if faults._is_below(str(database).removeprefix("file:")):
                faults.fail_sqlite(None)
                options["factory"] = Failing
            return real(database, *arguments, **options)

        return connect

    def fail_sqlite(self, connection) -> None:
        """Fail as SQLite does, which rolls back what a broken disk keeps it from writing."""
        if self._count("sqlite"):
            if connection is not None and connection.in_transaction:
                sqlite3.Connection.rollback(connection)
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = "SQLITE_IOERR_WRITE"
            raise error


class _File:
    """A file whose reading, writing and closing may fail."""

    def __init__(self, file, faults: Faults) -> None:
        self._file, self._faults = file, faults

    def __getattr__(self, name: str):
        real = getattr(self._file, name)
        if name not in ("read", "write", "flush"):
            return real

        def call(*arguments, **options):
            self._faults.fail(name)
            return real(*arguments, **options)

        return call

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *raised):
        return self._file.__exit__(*raised)

    def __iter__(self):
        return iter(self._file)


def broken_once(monkeypatch, owner, names, at: int, number: int) -> list[str]:
    """Let the at-th call of some methods of a class fail, once; returns the calls as they come."""
    calls: list[str] = []

    def failing(name, real):
        def call(*arguments, **options):
            calls.append(name)
            if len(calls) - 1 == at:
                raise OSError(number, os.strerror(number))
            return real(*arguments, **options)

        return call

    for name in names:
        monkeypatch.setattr(owner, name, failing(name, getattr(owner, name)))
    return calls
