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

from obliviate.ledger import journal, tables
from obliviate.ledger.change import Change
from obliviate.ledger.database import damaged
from obliviate.ledger.place import LEDGER_NAME, check_revision, found, revision_of

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
        before = _checked(connection, folder)
    if before == tables.HEAD:
        return Upgrade(before=before, after=before)
    with database.writing(has_foreign_keys=False) as connection:
        before = _checked(connection, folder)  # another process may have been faster
        if before == tables.HEAD:
            return Upgrade(before=before, after=before)
        copy = _copied(folder / LEDGER_NAME, before) if database.is_file else None
        _run_revisions(connection, before)
        for run in connection.execute(select(tables.runs.c.id)).scalars().all():
            _adopt(connection, run, f"brought from format {before} to {tables.HEAD}")
        _check_foreign_keys(connection, database)
    database.flush()
    return Upgrade(before=before, after=tables.HEAD, copy=copy)


def _checked(connection: Connection, folder: Path) -> str:
    """The revision that a ledger has; it is one that can be brought up to date."""
    before = revision_of(connection)
    if before is None or before >= tables.HEAD:
        check_revision(connection, folder)
    return before or tables.HEAD


def _check_foreign_keys(connection: Connection, database: Database) -> None:
    """They were not looked after while tables were remade."""
    if database.is_file and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise damaged(database.where, "it has rows that point nowhere")


def _copied(path: Path, revision: str) -> Path:
    """Keep a copy of the file as it is; under its own name it is complete."""
    copy = path.with_name(f"{path.stem}-{revision}{path.suffix}")
    part = copy.with_suffix(".part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(part)) as target:
        source.backup(target)
        # one file that needs none beside it
        target.execute("PRAGMA journal_mode=DELETE")
    part.replace(copy)
    return copy


def _run_revisions(connection: Connection, before: str) -> None:
    config = Config()
    scripts = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", scripts.replace("%", "%%"))
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
