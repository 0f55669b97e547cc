"""The journal: an append-only list of all that was done, each entry hashed with the one before.

An entry names every row that it touched, with a hash of what the row said afterwards. So neither
the journal nor any row that it speaks of can be changed, added or removed from outside without
being found, unless everything since is forged too: whoever wrote down the hash of the last entry
(`head`) somewhere else finds that as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, select, type_coerce

from obliviate.ledger import tables
from obliviate.ledger.tables import JsonText

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from sqlalchemy import Column, ColumnElement, Connection, Row, Table

GROUPED: dict[str, str | None] = {
    "runs": None,
    "parts": "part",
    "samples": None,
    "objects": "key",
    "chain": "block",
    "staged": "block",
    "erasures": "id",
    "erased": "erasure",
    "requests": "id",
    "requested": "request",
}
"""By which column the rows of a table are hashed together; None: all rows of the run at once."""

SPANNED = {"records": "record", "further": "record", "subjects": "id"}
"""Tables too long for a hash a row: what was written at once is hashed at once, by its span."""

HASH_DIGITS = 32  # of the 64: rows are told apart, the chain itself is hashed in full
_GROUPS_AT_ONCE = 500
_ROWS_AT_ONCE = 20_000


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One entry.

    Attributes:
        number: From 1, without a gap.
        time: When, by the clock of whoever wrote it; the order is the numbers', not the clock's.
        event: What was done, in words.
        rows: What the touched rows hashed to afterwards, by table and group; None: gone.
        hash: Of this entry and the one before, in hex.
    """

    number: int
    time: str
    event: str
    rows: dict[str, dict[str, str | None]]
    hash: str


def origin(name: str) -> str:
    """The hash that the first entry of a run is chained to."""
    return sha256(f"obliviate journal {name}".encode()).hexdigest()


def chained(previous: str, number: int, time: str, event: str, body: str) -> str:
    """The hash of an entry, from that of the one before."""
    text = json.dumps([previous, number, time, event, body])
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


def _raw(column: Column[Any]) -> ColumnElement[Any]:
    is_json = isinstance(column.type, JsonText)
    return type_coerce(column, String).label(column.name) if is_json else column


def encoded(row: Iterable[Any]) -> bytes:
    """A row in bytes: no two rows of numbers, text, bytes and NULLs have the same."""
    return b"%a\n" % (tuple(row),)


def run_column(table: Table) -> Column[int]:
    """The column that says whose a row is."""
    return table.c.id if table is tables.runs else table.c.run


def _rows(
    connection: Connection, table: Table, run: int, *conditions: ColumnElement[bool]
) -> Iterable[Row[Any]]:
    query = select(*map(_raw, table.c)).where(run_column(table) == run, *conditions)
    by = GROUPED.get(table.name)
    order = [*([table.c[by]] if by else []), *table.primary_key]
    # what may be too long for memory is fetched piece by piece, by a cursor on the server
    options = {"yield_per": _ROWS_AT_ONCE} if table.name in SPANNED else {}
    return connection.execute(query.order_by(*order).execution_options(**options))


def _hashed(rows: Iterable[Row[Any]]) -> str:
    sha = sha256()
    for row in rows:
        sha.update(encoded(row))
    return sha.hexdigest()[:HASH_DIGITS]


def group_hashes(
    connection: Connection, table: Table, run: int, groups: Collection[Any] | None = None
) -> dict[str, str]:
    """The hashes of groups of rows that there are, by group as text.

    Args:
        connection: Where.
        table: One of `GROUPED`.
        run: Whose rows.
        groups: Which; all if None.
    """
    by = GROUPED[table.name]
    if by is None:
        rows = list(_rows(connection, table, run))
        return {"": _hashed(rows)} if rows else {}
    place = [column.name for column in table.c].index(by)
    found: dict[str, str] = {}
    for condition in _conditions(table.c[by], groups):
        rows_of = groupby(_rows(connection, table, run, *condition), lambda row: row[place])
        found |= {str(group): _hashed(rows) for group, rows in rows_of}
    return found


def _conditions(
    column: Column[Any], groups: Collection[Any] | None
) -> Iterator[list[ColumnElement[bool]]]:
    if groups is None:
        yield []
        return
    known = [group for group in groups if group is not None]
    if len(known) < len(groups):
        yield [column.is_(None)]
    for start in range(0, len(known), _GROUPS_AT_ONCE):
        yield [column.in_(known[start : start + _GROUPS_AT_ONCE])]


def span_hash(connection: Connection, table: Table, run: int, span: tuple[int, int]) -> str:
    """The hash of the rows of a long table from one number to another, both included."""
    column = table.c[SPANNED[table.name]]
    sha = sha256()
    for row in _rows(connection, table, run, column.between(*span)):
        sha.update(encoded(row))
    return sha.hexdigest()[:HASH_DIGITS]


def entries(connection: Connection, run: int) -> Iterator[JournalEntry]:
    """The journal of a run, from its first entry on."""
    journal = tables.journal
    rows = select(journal).where(journal.c.run == run).order_by(journal.c.number)
    for row in connection.execute(rows):
        yield JournalEntry(
            number=row.number,
            time=row.time,
            event=row.event,
            rows=_body(row.body) or {},  # `faults` tells
            hash=row.hash,
        )


def _body(text: str) -> dict[str, dict[str, str | None]] | None:
    """What an entry says of rows; None where it is in no form that was ever written."""
    try:
        said = {table: dict(groups) for table, groups in dict(json.loads(text)).items()}
        for span in (span for name in SPANNED for span in said.get(name, {})):
            _span(span)
    except (ValueError, TypeError):
        return None
    return said if said.keys() <= GROUPED.keys() | SPANNED.keys() else None


def _span(text: str) -> tuple[int, int]:
    first, last = map(int, text.split("-"))
    return first, last


def faults(connection: Connection, run: int, name: str) -> Iterator[str]:
    """What was changed from outside: entries of the journal, and rows that it speaks of."""
    broken = list(_broken_entries(connection, run, name))
    yield from broken
    if broken:
        return  # what a forged journal says of rows is worth nothing
    said: dict[str, dict[str, str | None]] = {}
    for entry in entries(connection, run):
        for table, groups in entry.rows.items():
            said.setdefault(table, {}).update(groups)
    for table in (*GROUPED, *SPANNED):
        yield from _table_faults(connection, run, table, said.get(table, {}))
        yield from _strays(connection, table)
    yield from _strays(connection, tables.journal.name)


def _broken_entries(connection: Connection, run: int, name: str) -> Iterator[str]:
    journal, previous, expected = tables.journal, origin(name), 0
    rows = select(journal).where(journal.c.run == run).order_by(journal.c.number)
    for row in connection.execute(rows):
        expected += 1
        if row.number != expected:
            yield f"journal entry {expected} is missing"
            return
        if chained(previous, row.number, row.time, row.event, row.body) != row.hash:
            yield f"journal entry {expected} is not what was written"
            return
        if _body(row.body) is None:
            yield f"journal entry {expected} is in no form that was ever written"
            return
        previous = row.hash
    if not expected:
        yield "the journal is empty"


def _table_faults(
    connection: Connection, run: int, name: str, said: dict[str, str | None]
) -> Iterator[str]:
    table = tables.metadata.tables[name]
    if name in SPANNED:
        yield from _span_faults(connection, run, table, said)
        return
    found, label = group_hashes(connection, table, run), GROUPED[name]
    for group in sorted(said.keys() | found.keys()):
        row = f"{name}, {label} {group}" if label else name
        if group not in found and said[group] is not None:
            yield f"{row}: rows that the journal speaks of are gone"
        elif group in found and said.get(group) is None:
            yield f"{row}: rows that the journal does not know of"
        elif group in found and said[group] != found[group]:
            yield f"{row}: not what was written"


def _span_faults(
    connection: Connection, run: int, table: Table, said: dict[str, str | None]
) -> Iterator[str]:
    column = table.c[SPANNED[table.name]]
    unknown = select(column).where(table.c.run == run)
    for group, expected in said.items():
        span = _span(group)
        unknown = unknown.where(~column.between(*span))
        if span_hash(connection, table, run, span) != expected:
            yield f"{table.name}, {column.name} {group}: not what was written"
    if connection.execute(unknown.limit(1)).first() is not None:
        yield f"{table.name}: rows that the journal does not know of"


def _strays(connection: Connection, name: str) -> Iterator[str]:
    """Rows of runs that there are none; other runs in the database have journals of their own."""
    table, runs = tables.metadata.tables[name], select(tables.runs.c.id)
    query = select(run_column(table)).where(run_column(table).not_in(runs)).limit(1)
    if connection.execute(query).first() is not None:
        yield f"{name}: rows that belong to no run"
