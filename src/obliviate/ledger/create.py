"""The ledger of a new run: it is there in full or not at all."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, inspect, select, true

from obliviate.disk.paths import naming
from obliviate.errors import ConnectionLost, InvalidOption, ObliviateError
from obliviate.ledger import tables
from obliviate.ledger.chain_rows import insert_entries
from obliviate.ledger.change import Change
from obliviate.ledger.database import Database, private, sqlite_url
from obliviate.ledger.keys import with_check
from obliviate.ledger.newcomers import insert_part
from obliviate.ledger.open import LEDGER_NAME, POINTER_NAME, checked_url
from obliviate.ledger.schema import check_revision, make_tables, revision_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection

    from obliviate.ledger.facts import Entry, RunFacts
    from obliviate.ledger.newcomers import Newcomers

PART_NAME = "ledger.part"
_MAKING = 0x0B11_A7E  # one run at a time is made in a database
_MAKING_SECONDS = 600.0  # for which millions of records take some minutes


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
    samples = [{"record": record, "content": content} for record, content in run.samples.items()]
    change.insert(tables.samples, samples)
    insert_entries(change, tables.chain, [first])
    change.record("run made")


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
        "references": run.references,
        "project": dict(run.project),
        "made": run.made,
    }
    connection.execute(insert(tables.runs), row)
