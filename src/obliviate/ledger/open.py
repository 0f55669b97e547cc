"""Where the ledger of a run lies: in a file of its folder, or in a database named there."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from obliviate.disk.paths import is_passing, named, naming
from obliviate.errors import InvalidOption, ObliviateError, RunMissing
from obliviate.ledger import tables
from obliviate.ledger.database import Database, damaged
from obliviate.ledger.schema import check_revision, check_schema, revision_of
from obliviate.options import regular

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import URL

LEDGER_NAME, POINTER_NAME = "ledger.sqlite", "ledger.json"

_DRIVER = "postgresql+psycopg"
_SECRETS = {"password", "sslpassword"}


def has_ledger(folder: Path) -> bool:
    """Whether a folder says where its ledger is."""
    return is_there(folder / LEDGER_NAME) or is_there(folder / POINTER_NAME)


def is_there(path: Path) -> bool:
    """Whether there is a file, as far as this process may look.

    Raises:
        RunDamaged: It may not look.
        StorageFailed: The disk failed for the moment.
    """
    try:
        return path.exists()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ObliviateError:
    return named(error, path) if is_passing(error) else damaged(path, str(error.strerror or error))


def check_made(folder: Path) -> None:
    """See that a folder says where its ledger is.

    Raises:
        RunMissing: It does not.
    """
    if not has_ledger(folder):
        raise _missing(folder)


def checked_url(url: str) -> URL:
    """The URL of a database for many runs.

    Raises:
        InvalidOption: It is none, or of a kind that is not supported.
    """
    hint = f"give one such as {_DRIVER}://user@host/database"
    shown = re.sub(r"://([^:/@]*):[^@]*@", r"://\1:***@", str(url))
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidOption(f"the ledger {shown!r} is no database URL", hint=hint) from None
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername=_DRIVER)
    if parsed.drivername != _DRIVER:
        raise InvalidOption(
            f"the ledger {parsed.drivername}://... is not in PostgreSQL by psycopg",
            hint=f"{hint}, or none: then it is an SQLite file in the run's folder",
        )
    if parsed.password is not None or _SECRETS & parsed.query.keys():
        raise InvalidOption(
            "the ledger's URL holds a password, which would have to be kept with the run",
            hint="leave it out, and give it to the driver: by PGPASSWORD or by ~/.pgpass",
        )
    try:
        parsed.get_dialect().import_dbapi()
    except (ImportError, NoSuchModuleError) as error:
        raise InvalidOption(
            f"the ledger {shown!r} needs a driver that is not there ({error})",
            hint="pip install 'obliviate[postgres]'",
        ) from None
    return parsed


def opened(folder: Path, patience_seconds: float | None = None) -> tuple[Database, int]:
    """The database of the run in a folder, and the run's number there; see `Database`."""
    database, name = found(folder, patience_seconds)
    try:
        with database.reading() as connection:
            if name is not None and revision_of(connection) is None:
                raise _missing(folder)  # its making was killed, before there were tables
            check_revision(connection, folder)
            if database.is_file:
                check_schema(connection, database.where)
            query = select(tables.runs.c.id)
            if name is not None:
                query = query.where(tables.runs.c.name == name)
            runs = connection.execute(query).scalars().all()
        if not runs and name is not None:
            raise _missing(folder)  # its making was killed
        if not runs:
            raise damaged(database.where, "it lacks a row that belongs there")
        if len(runs) > 1:
            raise damaged(database.where, f"it holds {len(runs)} runs")
    except BaseException:
        database.close()
        raise
    return database, int(runs[0])


def found(folder: Path, patience_seconds: float | None) -> tuple[Database, str | None]:
    """The database that a folder names, and the run's name there; None: the only run there is.

    Raises:
        RunMissing: It names none.
        RunDamaged: It cannot be read.
        StorageFailed: The disk failed for the moment.
    """
    with naming(folder):
        return _found(folder, patience_seconds)


def _found(folder: Path, patience_seconds: float | None) -> tuple[Database, str | None]:
    path, pointer = folder / LEDGER_NAME, folder / POINTER_NAME
    if is_there(path):
        if path.stat().st_size == 0:
            raise damaged(path, "it is empty")
        return Database.file(path, patience_seconds), None
    if not is_there(pointer):
        raise _missing(folder)
    try:
        pointer_values = json.loads(regular(pointer).read_text())
        url, name = checked_url(pointer_values["url"]), str(pointer_values["run"])
    except OSError as error:
        raise _unreadable(pointer, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(pointer, str(error)) from error
    return Database(url, patience_seconds=patience_seconds), name


def _missing(folder: Path) -> RunMissing:
    return RunMissing(
        f"there is no run in {folder}",
        hint="check the path, or make one with `obliviate fit PROJECT RUN`",
    )
