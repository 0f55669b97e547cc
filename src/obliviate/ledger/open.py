"""Where the ledger of a run lies: in a file of its folder, or in a database named there."""

from __future__ import annotations

import json
import os
import re
import uuid
from dataclasses import replace
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, inspect, select, true
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from obliviate.clock import stamp
from obliviate.disk.paths import is_passing, named, naming
from obliviate.errors import (
    ConnectionLost,
    InvalidOption,
    ObliviateError,
    OtherFormat,
    RunMissing,
)
from obliviate.ledger import tables
from obliviate.ledger.chain_rows import insert_entries
from obliviate.ledger.change import Change
from obliviate.ledger.database import Database, damaged, private, sqlite_url
from obliviate.ledger.records import Newcomers, insert_people
from obliviate.options import regular

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection
    from sqlalchemy.engine import URL

    from obliviate.ledger.facts import Entry, Part, RunFacts

LEDGER_NAME, POINTER_NAME, PART_NAME = "ledger.sqlite", "ledger.json", "ledger.part"

_DRIVER = "postgresql+psycopg"
_SECRETS = {"password", "sslpassword"}
_CHECK_BYTES = 8
_MAKING = 0x0B11_A7E  # one run at a time is made in a database
_MAKING_SECONDS = 600.0  # for which millions of records take some minutes


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
                _check_schema(connection, database.where)
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
        said = json.loads(regular(pointer).read_text())
        url, name = checked_url(said["url"]), str(said["run"])
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


def check_revision(connection: Connection, folder: Path | str) -> None:
    """See that a database has the schema of this version.

    Raises:
        OtherFormat: It has another one.
    """
    revision = revision_of(connection)
    if revision == tables.HEAD:
        return
    if revision is None:
        raise damaged(folder, "it has no tables of a ledger")
    raise OtherFormat(
        f"the ledger of {folder} has format {revision}; this version reads {tables.HEAD}",
        hint="use the version of obliviate that wrote it; nothing was changed",
    )


def revision_of(connection: Connection) -> str | None:
    """The revision of the schema; None where there are no tables of ours."""
    names = set(inspect(connection).get_table_names())
    if not {"runs", "chain", tables.alembic_version.name} <= names:
        return None
    return connection.execute(select(tables.alembic_version.c.version_num)).scalar()


def _check_schema(connection: Connection, where: str) -> None:
    """See that an SQLite file keeps its rows as `make_tables` said.

    A letter that turned over in there makes SQLite read every row of a table in another way.

    Raises:
        RunDamaged: It does not.
    """
    there = _schema_of(connection)
    for name, text in _schema_made().items():
        if there.get(name) != text:
            raise damaged(where, f"its schema says something else of {name} than was written")


@cache
def _schema_made() -> dict[str, str]:
    database = Database(sqlite_url(":memory:"), pragmas=())
    try:
        with database.writing() as connection:
            make_tables(connection)
            return _schema_of(connection)
    finally:
        database.close()


def _schema_of(connection: Connection) -> dict[str, str]:
    """What tables and indexes are made by, by name; SQLite's own indexes have nothing."""
    rows = connection.exec_driver_sql("SELECT name, coalesce(sql, '') FROM sqlite_schema").all()
    return {str(name): str(text) for name, text in rows}


def prepare(url: str) -> None:
    """See that a database can take another run; its tables are made where there are none.

    Raises:
        InvalidOption: It is in use for something else.
        OtherFormat: Another version of Obliviate made its tables.
        ConnectionLost, StorageFull: It cannot be reached, or not be written to.
    """
    database = Database(checked_url(url))
    try:
        with database.writing(patience_seconds=_MAKING_SECONDS) as connection:
            _ready(connection, database)
    finally:
        database.close()


def _ready(connection: Connection, database: Database) -> None:
    if not database.is_file:
        connection.execute(select(func.pg_advisory_xact_lock(_MAKING)))
    if revision_of(connection) is None:
        taken = tables.metadata.tables.keys() & set(inspect(connection).get_table_names())
        if taken:
            raise InvalidOption(
                f"the database {database.where} is in use for something else: it has a table "
                f"{min(taken)}",
                hint="give the ledger a database of its own, or a schema: "
                "...?options=-csearch_path%3DNAME",
            )
        make_tables(connection)
    check_revision(connection, database.where)


def in_the_clear(key: bytes, _purpose: str) -> bytes:
    """A key as it is kept where there is no master key."""
    return key


def with_check(kept: bytes) -> bytes:
    """A key with what tells that none of its bits turned over: under another, nobody is known."""
    return kept + sha256(kept).digest()[:_CHECK_BYTES]


def without_check(kept: bytes) -> bytes | None:
    """What `with_check` was given; None where bits of it turned over."""
    key = kept[:-_CHECK_BYTES]
    return key if with_check(key) == kept else None


def created(
    folder: Path,
    run: RunFacts,
    first: Entry,
    new: Newcomers,
    url: str | None,
    *,
    wrap: Callable[[bytes, str], bytes],
) -> None:
    """Write the ledger of a new run; see `Ledger.create`."""
    name = uuid.uuid4().hex
    if url is None:
        part = folder / PART_NAME
        with naming(folder):
            part.unlink(missing_ok=True)
            private(part)
        database = Database(sqlite_url(part), pragmas=())
    else:
        database = Database(checked_url(url))
        _point(folder, database, name)
    try:
        with database.writing(
            patience_seconds=_MAKING_SECONDS, hanging_seconds=_MAKING_SECONDS
        ) as connection:
            _ready(connection, database)
            if database.is_file:  # an index is built faster in one go, when all rows are there
                tables.subject_index.drop(connection)
            _write_run(connection, name, run, first, new, wrap=wrap)
            if database.is_file:
                tables.subject_index.create(connection)
    except ObliviateError as error:
        if not isinstance(error, ConnectionLost):  # then it may have been written all the same
            with naming(folder):
                (folder / POINTER_NAME).unlink(missing_ok=True)
        raise
    finally:
        database.close()
    if url is None:
        with naming(folder):
            (folder / PART_NAME).rename(folder / LEDGER_NAME)


def _write_run(
    connection: Connection,
    name: str,
    run: RunFacts,
    first: Entry,
    new: Newcomers,
    *,
    wrap: Callable[[bytes, str], bytes],
) -> None:
    number = int(connection.execute(select(func.max(tables.runs.c.id))).scalar() or 0) + 1
    kept = replace(
        run,
        subject_key=run.subject_key and wrap(run.subject_key, "subjects"),
        content_key=wrap(run.content_key, "content"),
    )
    _insert_run(connection, number, name, kept)
    change = Change(connection, number)
    # the row of the run is there already; the journal should know of it
    change.update(tables.runs, true(), {"made": run.made})
    insert_part(change, run, 0, run.parts[0], new)
    samples = [{"record": record, "content": said} for record, said in run.samples.items()]
    change.insert(tables.samples, samples)
    insert_entries(change, tables.chain, [first])
    change.record("run made")


def make_tables(connection: Connection) -> None:
    """Make the tables of an empty database."""
    tables.metadata.create_all(connection)
    connection.execute(insert(tables.alembic_version), {"version_num": tables.HEAD})


def _point(folder: Path, database: Database, name: str) -> None:
    """Say in the folder where the ledger is."""
    url = database.engine.url.render_as_string()
    part = folder / PART_NAME
    with naming(folder):
        private(part)
        part.write_text(json.dumps({"url": url, "run": name}))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(folder / POINTER_NAME)


def _insert_run(connection: Connection, number: int, name: str, run: RunFacts) -> None:
    row = {
        "id": number,
        "name": name,
        "smallest_batch": run.smallest_batch,
        "fingerprint": dict(run.fingerprint),
        "environment": dict(run.environment),
        "subject_key": run.subject_key and with_check(run.subject_key),
        "content_key": with_check(run.content_key),
        "tombstones": dict(run.tombstones),
        "vault": dict(run.vault),
        "project": dict(run.project),
        "made": run.made,
    }
    connection.execute(insert(tables.runs), row)


def insert_part(change: Change, run: RunFacts, number: int, part: Part, new: Newcomers) -> None:
    """Insert records that a run is made with, or grows by."""
    key, subjects = run.subject_key, new.subjects
    row = {
        "part": number,
        "records": part.records,
        "blocks": part.blocks,
        "has_subjects": int(key is not None and subjects is not None),
        "made": stamp(),
    }
    change.insert(tables.parts, [row])
    insert_people(change, new, key, sum(each.records for each in run.parts[:number]))
    change.insert(tables.erased, [{"record": record} for record in new.excluded.tolist()])
