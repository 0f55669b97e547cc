"""The database of a ledger: transactions, and what can go wrong with them."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import create_engine, event, exc
from sqlalchemy.engine import URL

from obliviate.errors import ConnectionLost, RunDamaged, RunLocked, StorageFull

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, Engine

_NO_ROOM = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")
_REFUSED = ("ReadOnlySqlTransaction", "InsufficientPrivilege", "DiskFull")
_BUSY = ("LockNotAvailable", "DeadlockDetected", "SerializationFailure")
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
_READING = ("foreign_keys=ON", "query_only=ON")
_PATIENCE_SECONDS = 30


class Database:
    """Where the rows of one or many runs lie: an SQLite file, or a PostgreSQL server.

    Attributes:
        where: Its name in messages; never with a password.
        is_file: Whether it is an SQLite file.
        engine: SQLAlchemy's.
    """

    def __init__(self, url: URL, *, pragmas: Sequence[str] = _PRAGMAS) -> None:
        """Prepare to connect; nothing is touched before the first transaction."""
        self.where = str(url.database) if is_sqlite(url) else url.render_as_string()
        self.is_file = is_sqlite(url)
        self.engine = _sqlite(url, pragmas) if self.is_file else _server(url)

    @classmethod
    def file(cls, path: Path) -> Database:
        """The database in a file; one that may not be written to is opened for reading alone."""
        if may_write(path):
            return cls(sqlite_url(path))
        # without a write-ahead log the file is all there is, and needs no files beside it
        log, shared = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
        has_log = log.exists() and (shared.exists() or log.stat().st_size)
        options = {"mode": "ro"} if has_log else {"immutable": "1"}
        place = f"file:{quote(str(path))}"
        url = URL.create("sqlite", database=place, query={"uri": "true", **options})
        database = cls(url, pragmas=_READING)
        database.where = str(path)
        return database

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that reads; what the database raises comes as our own errors."""
        with self._named_errors(), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *, has_foreign_keys: bool = True) -> Iterator[Connection]:
        """One transaction that writes: all of it or nothing, after whoever writes before us.

        Args:
            has_foreign_keys: Whether they are looked after; where tables are remade, they are not.
        """
        with self._named_errors(), self.engine.connect() as connection:
            if self.is_file and not has_foreign_keys:
                connection.connection.cursor().execute("PRAGMA foreign_keys=OFF")
            # on a server each statement sees what others committed before it; see `Change`
            level = {} if self.is_file else {"isolation_level": "READ COMMITTED"}
            writer = connection.execution_options(is_writing=True, **level)
            with writer.begin():
                yield writer

    def flush(self) -> None:
        """Write everything into the main file, over what was there: deleted rows are gone from it.

        While another process reads, some of it may have to wait until the next flush. On a server
        its own upkeep (VACUUM) does that.
        """
        if not self.is_file:
            return
        with self._named_errors(), contextlib.closing(self.engine.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def drop(self) -> None:
        """Let go of it for the last time; quickly, since a finalizer swallows interrupts."""
        self.engine.pool.dispose()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except exc.DatabaseError as error:
            raise self._named(error.orig or error) from error
        except self.engine.dialect.loaded_dbapi.Error as error:  # of what bypasses SQLAlchemy
            raise self._named(error) from error
        except exc.NoResultFound as error:
            raise damaged(self.where, "it lacks a row that belongs there") from error

    def _named(self, error: BaseException) -> Exception:
        reason = str(error).strip()
        kind = str(getattr(error, "sqlite_errorname", type(error).__name__))
        if kind.startswith(_NO_ROOM) or kind in _REFUSED:
            return StorageFull(
                f"the ledger {self.where} cannot be written to ({reason})",
                hint="make room or allow writing there, then call again; nothing was lost",
            )
        if kind.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or kind in _BUSY:
            return RunLocked(
                f"another process keeps the ledger {self.where} ({reason})",
                hint="try again in a while",
            )
        driver: Any = self.engine.dialect.loaded_dbapi
        if not self.is_file and isinstance(error, (driver.OperationalError, driver.InterfaceError)):
            return ConnectionLost(
                f"the ledger {self.where} cannot be reached ({reason})",
                hint="call again when it can: all that was committed is kept, and what was begun "
                "will be finished",
            )
        return damaged(self.where, reason)


def is_sqlite(url: URL) -> bool:
    """Whether a URL is that of an SQLite file."""
    return url.get_backend_name() == "sqlite"


def sqlite_url(path: Path) -> URL:
    """The URL of an SQLite file."""
    return URL.create("sqlite", database=str(path))


def may_write(path: Path) -> bool:
    """Whether a file can be written to, and others be made beside it."""
    # whoever the process acts for, not whoever started it
    effective = os.access in os.supports_effective_ids
    return not path.exists() or all(
        os.access(place, os.W_OK, effective_ids=effective) for place in (path, path.parent)
    )


def _sqlite(url: URL, pragmas: Sequence[str]) -> Engine:
    arguments: dict[str, Any] = {"timeout": _PATIENCE_SECONDS}
    engine = create_engine(url, connect_args=arguments)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are ours, those that only read too
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # a reader that starts to write later could find that another was faster
        is_writing = connection.get_execution_options().get("is_writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")

    return engine


def _server(url: URL) -> Engine:
    return create_engine(
        url,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
        connect_args={"connect_timeout": _PATIENCE_SECONDS},
    )


def damaged(where: object, reason: str) -> RunDamaged:
    """The error of a ledger that cannot be read."""
    return RunDamaged(
        f"{where} cannot be read as a ledger ({reason})",
        hint="restore the run folder from a copy, or make the run again in another folder",
    )
