"""Bringing the ledger of a run to the schema of this version, by Alembic's revisions."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from sqlalchemy import select

from obliviate.errors import NewerFormat
from obliviate.ledger import journal, tables
from obliviate.ledger.change import Change
from obliviate.ledger.place import LEDGER_NAME, found, revision_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from obliviate.ledger.database import Database


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """What came of it.

    Attributes:
        before: The revision that the ledger had.
        after: The one that it has.
        copy: Where the file from before is kept; None where nothing was changed, or on a server.
    """

    before: str
    after: str
    copy: Path | None = None


def upgraded(folder: Path) -> Upgrade:
    """Bring the ledger of a run up to date, all or nothing; on a server, that of all its runs.

    Raises:
        RunMissing, RunDamaged: There is none that can be read.
        NewerFormat: It is newer than this version.
        StorageFull: It cannot be written to.
    """
    database, _ = found(folder)
    try:
        return _upgraded(database, folder)
    finally:
        database.close()


def _upgraded(database: Database, folder: Path) -> Upgrade:
    with database.reading() as connection:
        before = revision_of(connection)
    if before is None or before == tables.HEAD:
        return Upgrade(before=tables.HEAD, after=tables.HEAD)
    if before > tables.HEAD:
        raise NewerFormat(
            f"the ledger of {folder} has format {before}; this version reads {tables.HEAD}",
            hint="upgrade obliviate; nothing was changed",
        )
    copy = _copied(folder / LEDGER_NAME, before) if database.is_file else None
    with database.writing(has_foreign_keys=False) as connection:
        _run_revisions(connection, before)
        for run in connection.execute(select(tables.runs.c.id)).scalars().all():
            _adopt(connection, run, f"brought from format {before} to {tables.HEAD}")
    return Upgrade(before=before, after=tables.HEAD, copy=copy)


def _copied(path: Path, revision: str) -> Path:
    copy = path.with_name(f"{path.stem}-{revision}{path.suffix}")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def _run_revisions(connection: Connection, before: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    command.stamp(config, before)
    command.upgrade(config, tables.HEAD)


def _adopt(connection: Connection, run: int, event: str) -> None:
    """Let the journal know of all rows as they are now."""
    change = Change(connection, run)
    for name in journal.GROUPED:
        change.touch_all(tables.metadata.tables[name])
    for name in journal.SPANNED:
        change.wrote_all(tables.metadata.tables[name])
    change.record(event)
