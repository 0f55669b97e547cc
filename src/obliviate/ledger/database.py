"""The database of a ledger: transactions, and what can go wrong with them."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import create_engine, event, exc
from sqlalchemy.engine import URL

from obliviate.disk.paths import naming
from obliviate.errors import PUT_BACK, ConnectionLost, RunDamaged, RunLocked, StorageFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from obliviate.ledger.change import Change

_NO_ROOM = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")
_REFUSED = ("ReadOnlySqlTransaction", "InsufficientPrivilege", "DiskFull")
_BUSY = ("LockNotAvailable", "DeadlockDetected", "SerializationFailure")
_CUT_OFF = ("IdleInTransactionSessionTimeout",)
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
_READING = ("foreign_keys=ON", "query_only=ON")
_CONNECT_SECONDS = 30
_SHORTEST_SECONDS = 1.0
MOST_SECONDS = 30.0
"""How long the transaction of another process is waited for, at most."""

HANGING_SECONDS = 120.0
"""After how long a server ends a session that does nothing in the middle of a transaction."""

QUICKLY_CHECKED_BYTES = 1 << 22
"""Files up to this size are looked through in a fraction of a second."""

FLUSH_SECONDS = 5.0
"""How long others are waited for that read from before what is to be gone."""

_KEEPALIVE = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}
"""How a server that vanished without a word is noticed."""


class Database:
    """Where the rows of one or many runs lie: an SQLite file, or a PostgreSQL server.

    Attributes:
        where: Its name in messages; never with a password.
        is_file: Whether it is an SQLite file.
        engine: SQLAlchemy's.
        patience_seconds: How long a transaction waits for one of another process.
    """

    def __init__(
        self, url: URL, *, pragmas: Sequence[str] = _PRAGMAS, patience_seconds: float | None = None
    ) -> None:
        """Prepare to connect; nothing is touched before the first transaction.

        Args:
            url: Where.
            pragmas: Settings of an SQLite file.
            patience_seconds: How long to wait for other processes; see `within`.
        """
        self.patience_seconds = within(patience_seconds)
        self.where = str(url.database) if is_sqlite(url) else url.render_as_string()
        self.is_file = is_sqlite(url)
        patience = self.patience_seconds
        self.engine = _sqlite(url, pragmas, patience) if self.is_file else _server(url, patience)

    @classmethod
    def file(cls, path: Path, patience_seconds: float | None = None) -> Database:
        """The database in a file; one that may not be written to is opened for reading alone.

        Raises:
            StorageFull, StorageFailed: The disk refuses.
        """
        with naming(path):
            if may_write(path):
                private(path)
                return cls(sqlite_url(path), patience_seconds=patience_seconds)
            # without a write-ahead log the file is all there is, and needs no files beside it
            log, shared = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
            has_log = log.exists() and (shared.exists() or log.stat().st_size)
        options = {"mode": "ro"} if has_log else {"immutable": "1"}
        place = f"file:{quote(str(path))}"
        url = URL.create("sqlite", database=place, query={"uri": "true", **options})
        database = cls(url, pragmas=_READING, patience_seconds=patience_seconds)
        database.where = str(path)
        return database

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that reads; what the database raises comes as our own errors."""
        with self._named_errors(), self._named_values(), self.engine.connect() as connection:
            reader = connection.execution_options(patience_seconds=self.patience_seconds)
            with reader.begin():
                yield reader

    @contextlib.contextmanager
    def writing(
        self,
        *,
        patience_seconds: float | None = None,
        hanging_seconds: float = HANGING_SECONDS,
    ) -> Iterator[Connection]:
        """One transaction that writes: all of it or nothing, after whoever writes before us.

        Args:
            patience_seconds: How long to wait for whoever that is; the database's own if None.
            hanging_seconds: After how long without a word a server takes it back.

        Raises:
            RunLocked: The patience was over first.
        """
        with self._named_errors(), self.engine.connect() as connection:
            # on a server each statement sees what others committed before it; see `Change`
            level = {} if self.is_file else {"isolation_level": "READ COMMITTED"}
            wanted = self.patience_seconds if patience_seconds is None else patience_seconds
            writer = connection.execution_options(
                is_writing=True,
                patience_seconds=max(wanted, _SHORTEST_SECONDS),
                hanging_seconds=hanging_seconds,
                **level,
            )
            with writer.begin():
                yield writer

    def flush(self, patience_seconds: float = FLUSH_SECONDS) -> bool:
        """Write everything into the main file, over what was there: deleted rows are gone from it.

        On a server its own upkeep (VACUUM) does that, and nothing is done here.

        Args:
            patience_seconds: How long to wait for others that read or write.

        Returns:
            Whether it was done. While another process keeps reading from an earlier moment it
            cannot be: what was deleted is still in the file, and in the log beside it.
        """
        if not self.is_file:
            return True
        with self._named_errors(), contextlib.closing(self.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={int(1000 * patience_seconds)}")
            connection.info.pop("busy_timeout", None)  # the next transaction sets its own
            is_busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not is_busy

    def faults(self, most_bytes: int | None = None) -> list[str]:
        """What is wrong with an SQLite file itself: its pages, its indexes, its tables' form.

        Args:
            most_bytes: Files that are larger are not looked at.
        """
        if not self.is_file or (most_bytes is not None and self._size_bytes() > most_bytes):
            return []
        with self.reading() as connection:
            said = connection.exec_driver_sql("PRAGMA integrity_check(5)").scalars().all()
        return [f"{self.where}: {each}" for each in said if each != "ok"]

    def lost_links(self) -> list[str]:
        """Rows of an SQLite file that point at rows that are not there."""
        if not self.is_file:
            return []
        with self.reading() as connection:
            rows = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        return [f"{each[0]}: rows that point at nothing" for each in rows[:1]]

    def _size_bytes(self) -> int:
        with self.reading() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            return int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def drop(self) -> None:
        """Let go of it for the last time; quickly, since a finalizer swallows interrupts."""
        self.engine.pool.dispose()

    @contextlib.contextmanager
    def _named_values(self) -> Iterator[None]:
        """SQLite keeps a value of any kind in any column: what was damaged may be of another."""
        try:
            yield
        except (TypeError, ValueError, OverflowError) as error:
            raise damaged(
                self.where, f"a value in it cannot be what was written: {error}"
            ) from error

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except exc.DatabaseError as error:
            raise self._named(error.orig or error) from error
        except self.engine.dialect.loaded_dbapi.Error as error:  # of what bypasses SQLAlchemy
            raise self._named(error) from error
        except (exc.NoResultFound, exc.MultipleResultsFound) as error:
            raise damaged(self.where, f"it lacks a row that belongs there: {error}") from error

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
                hint="try again in a while; if it never ends, look for a process that was stopped, "
                "or hangs, in the middle of writing: continue it, or end it",
            )
        driver: Any = self.engine.dialect.loaded_dbapi
        lost = (driver.OperationalError, driver.InterfaceError)
        if not self.is_file and (isinstance(error, lost) or kind in _CUT_OFF):
            return ConnectionLost(
                f"the ledger {self.where} cannot be reached ({reason})",
                hint="call again when it can: all that was committed is kept, and what was begun "
                "will be finished",
            )
        return damaged(self.where, reason)


def is_sqlite(url: URL) -> bool:
    """Whether a URL is that of an SQLite file."""
    return url.get_backend_name() == "sqlite"


def sqlite_url(path: Path | str) -> URL:
    """The URL of an SQLite file."""
    return URL.create("sqlite", database=str(path))


def private(path: Path) -> None:
    """Make an empty file that its owner alone can read, if there is none."""
    with contextlib.suppress(
        FileExistsError, OSError
    ):  # whoever writes to it is told what is wrong
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def may_write(path: Path) -> bool:
    """Whether a file can be written to, and others be made beside it."""
    # whoever the process acts for, not whoever started it
    effective = os.access in os.supports_effective_ids
    return not path.exists() or all(
        os.access(place, os.W_OK, effective_ids=effective) for place in (path, path.parent)
    )


def within(patience_seconds: float | None) -> float:
    """For how long a transaction waits for another one.

    A process that is well needs a moment for one: a shorter patience would refuse without a cause.
    A longer one is for who holds the lease, which is asked again and again.
    """
    wanted = MOST_SECONDS if patience_seconds is None else patience_seconds
    return min(max(wanted, _SHORTEST_SECONDS), MOST_SECONDS)


def _sqlite(url: URL, pragmas: Sequence[str], patience_seconds: float) -> Engine:
    arguments: dict[str, Any] = {"timeout": patience_seconds}
    engine = create_engine(url, connect_args=arguments)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are ours, those that only read too
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        milliseconds = round(1000 * options.get("patience_seconds", patience_seconds))
        if connection.info.get("busy_timeout") != milliseconds:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={milliseconds}").close()
            connection.info["busy_timeout"] = milliseconds
        # a reader that starts to write later could find that another was faster
        is_writing = options.get("is_writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")

    return engine


def _server(url: URL, patience_seconds: float) -> Engine:
    arguments = {"connect_timeout": _CONNECT_SECONDS, **_KEEPALIVE}
    engine = create_engine(
        url,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
        connect_args={name: value for name, value in arguments.items() if name not in url.query},
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # for this transaction alone: whatever is between us and the server may share sessions
        options = connection.get_execution_options()
        waiting = options.get("patience_seconds", patience_seconds)
        hanging = options.get("hanging_seconds", HANGING_SECONDS)
        connection.exec_driver_sql(
            "SELECT set_config('lock_timeout', %s, true), "
            "set_config('idle_in_transaction_session_timeout', %s, true)",
            tuple(f"{round(1000 * seconds)}ms" for seconds in (waiting, hanging)),
        ).close()

    return engine


def damaged(where: object, reason: str) -> RunDamaged:
    """The error of a ledger that cannot be read."""
    return RunDamaged(
        f"{where} cannot be read as a ledger ({reason})",
        hint=PUT_BACK,
    )


class RunRows:
    """Some rows of one run, and how they are changed."""

    def __init__(
        self,
        database: Database,
        run: int,
        changing: Callable[[str], AbstractContextManager[Change]],
    ) -> None:
        """Take the database, the number of the run, and what begins a change of it."""
        self._database, self._run, self._changing = database, run, changing
