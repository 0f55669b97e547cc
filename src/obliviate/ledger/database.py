"""The database file: transactions, and what can go wrong with them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, exc
from sqlalchemy.engine import URL

from obliviate.errors import RunDamaged, RunLocked, StorageFull

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, Engine

_NO_ROOM = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")


def made_engine(path: Path, pragmas: Sequence[str]) -> Engine:
    """The engine of a ledger file."""
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are ours, those that only read too
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


@contextlib.contextmanager
def transaction(engine: Engine, path: Path) -> Iterator[Connection]:
    """One transaction; what the database raises comes as our own errors."""
    try:
        with engine.begin() as connection:
            yield connection
    except exc.DatabaseError as error:
        reason, name = str(error.orig), str(getattr(error.orig, "sqlite_errorname", ""))
        if name.startswith(_NO_ROOM):
            raise StorageFull(
                f"the ledger {path} cannot be written to ({reason})",
                hint="make room or allow writing there, then call again; nothing was lost",
            ) from error
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise RunLocked(
                f"another process keeps the ledger {path} ({reason})", hint="try again in a while"
            ) from error
        raise damaged(path, reason) from error
    except exc.NoResultFound as error:
        raise damaged(path, "it lacks a row that belongs there") from error


def damaged(path: Path, reason: str) -> RunDamaged:
    """The error of a ledger that cannot be read."""
    return RunDamaged(
        f"{path} cannot be read as a ledger ({reason})",
        hint="restore the run folder from a copy, or make the run again in another folder",
    )
