"""The schema of a ledger's database: made once, and seen to be what was made."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import Integer, UniqueConstraint, insert, inspect, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from obliviate.errors import OtherFormat
from obliviate.ledger import tables
from obliviate.ledger.database import damaged

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Table


def make_tables(connection: Connection) -> None:
    """Make the tables of an empty database."""
    tables.metadata.create_all(connection)
    connection.execute(insert(tables.alembic_version), {"version_num": tables.HEAD})


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


def check_schema(connection: Connection, where: str) -> None:
    """See that an SQLite file keeps its rows as `make_tables` said.

    A letter that turned over in there makes SQLite read every row of a table in another way.

    Raises:
        RunDamaged: It does not.
    """
    present = schema_of(connection)
    for name, text in declared().items():
        if present.get(name) != text:
            raise damaged(where, f"its schema says something else of {name} than was written")


@cache
def declared() -> dict[str, str]:
    """What `make_tables` makes tables and indexes of an SQLite file by, by name.

    It is compiled and not made anywhere: every command would wait for that.
    """
    dialect, texts = sqlite.dialect(), dict[str, str]()
    for table in tables.metadata.sorted_tables:
        texts |= dict.fromkeys(_own_indexes(table), "")
        texts[table.name] = str(CreateTable(table).compile(dialect=dialect)).strip()
        for index in table.indexes:
            texts[str(index.name)] = str(CreateIndex(index).compile(dialect=dialect)).strip()
    return texts


def _own_indexes(table: Table) -> list[str]:
    """The indexes that SQLite makes by itself: one for each key that is not the table's order."""
    keys = list(table.primary_key)
    is_rowid = table.dialect_options["sqlite"]["with_rowid"]
    is_order = not is_rowid or (len(keys) == 1 and isinstance(keys[0].type, Integer))
    unique = sum(isinstance(each, UniqueConstraint) for each in table.constraints)
    # in a table without row ids the first one is the table itself, and is counted
    first, last = (2, unique + 1) if not is_rowid else (1, unique + (not is_order))
    return [f"sqlite_autoindex_{table.name}_{number}" for number in range(first, last + 1)]


def schema_of(connection: Connection) -> dict[str, str]:
    """What tables and indexes are made by, by name; SQLite's own indexes have nothing."""
    rows = connection.exec_driver_sql("SELECT name, coalesce(sql, '') FROM sqlite_schema").all()
    return {str(name): str(text).rstrip() for name, text in rows}
