"""The journal: an append-only list of all that was done, each entry hashed with the one before.

An entry names every group of rows that it touched, with a hash of what they said afterwards. So
neither the journal nor any row that it speaks of can be changed, added or removed from outside
without being found, unless everything since is forged too: whoever wrote down the hash of the last
entry (`head`) somewhere else finds that as well.

The hashes are salted, each group of rows by a salt that is drawn anew whenever they change, and
the salt from before is destroyed. What an old entry says can then be compared with nothing: the
journal confirms no guess about what a row once said.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, select, type_coerce

from obliviate.ledger import tables
from obliviate.ledger.tables import JsonText

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from sqlalchemy import Column, ColumnElement, Connection, Row, Table

GROUPED: dict[str, str | None] = {
    "runs": None,
    "parts": "part",
    "samples": None,
    "objects": "key",
    "chain": "block",
    "contents": "block",
    "staged": "block",
    "erasures": "id",
    "erased": "erasure",
    "requests": "id",
    "requested": "request",
}
"""By which column the rows of a table are hashed together; None: all rows of the run at once."""

SPANNED = {"records": "record", "further": "record", "subjects": "id"}
"""Tables too long for a hash a row: they are hashed by spans of so many numbers."""


SPAN_ROWS = 4_000
HASH_DIGITS = 32  # of the 64: rows are told apart, the chain itself is hashed in full
_SALT_BYTES = 16
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


class Salted:
    """The hash of a group of rows, while they go by."""

    def __init__(self, salt: bytes | None = None) -> None:
        self.salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
        self._sha = sha256(self.salt)

    def add(self, rows: Iterable[Iterable[Any]]) -> None:
        """Take up some rows."""
        self._sha.update(b"".join(map(encoded, rows)))

    @property
    def hash(self) -> str:
        """What the rows so far hash to."""
        return self._sha.hexdigest()[:HASH_DIGITS]


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


def group_of(table: Table) -> ColumnElement[Any] | None:
    """What rows of a table are grouped by; None where all rows of a run are one group."""
    if table.name in SPANNED:
        return table.c[SPANNED[table.name]] // SPAN_ROWS
    by = GROUPED[table.name]
    return None if by is None else table.c[by]


def group_in(table: Table, row: Mapping[str, Any]) -> Any:
    """The group that a row is in."""
    if table.name in SPANNED:
        return row[SPANNED[table.name]] // SPAN_ROWS
    by = GROUPED[table.name]
    return None if by is None else row.get(by)


def _rows(
    connection: Connection, table: Table, run: int, *conditions: ColumnElement[bool]
) -> Iterable[Row[Any]]:
    query = select(*map(_raw, table.c)).where(run_column(table) == run, *conditions)
    by = GROUPED.get(table.name)
    order = [*([table.c[by]] if by else []), *table.primary_key]
    # what may be too long for memory is fetched piece by piece, by a cursor on the server
    options = {"yield_per": _ROWS_AT_ONCE} if table.name in SPANNED else {}
    return connection.execute(query.order_by(*order).execution_options(**options))


def grouped_rows(
    connection: Connection, table: Table, run: int, groups: Collection[Any] | None = None
) -> Iterator[tuple[str, Iterable[Row[Any]]]]:
    """The rows of a table, group after group, each with its name.

    Args:
        connection: Where.
        table: Which.
        run: Whose rows.
        groups: Which; all if None.
    """
    for condition in _conditions(table, groups):
        rows = _rows(connection, table, run, *condition)
        yield from ((name, list(some)) for name, some in groupby(rows, _namer(table)))


def span_of(number: Any) -> str:
    """The span of a long table that a row of that number is in."""
    # what somebody else wrote there may be no number
    return str(number // SPAN_ROWS) if isinstance(number, int) else repr(number)


def _namer(table: Table) -> Callable[[Row[Any]], str]:
    names = [column.name for column in table.c]
    if table.name in SPANNED:
        at = names.index(SPANNED[table.name])
        return lambda row: span_of(row[at])
    by = GROUPED[table.name]
    if by is None:
        return lambda _: ""
    place = names.index(by)
    return lambda row: str(row[place])


def _conditions(
    table: Table, groups: Collection[Any] | None
) -> Iterator[list[ColumnElement[bool]]]:
    if groups is None or (GROUPED.get(table.name, "") is None):
        yield []
        return
    if table.name in SPANNED:
        column = table.c[SPANNED[table.name]]
        for group in sorted(groups):
            yield [column.between(group * SPAN_ROWS, (group + 1) * SPAN_ROWS - 1)]
        return
    by = table.c[str(GROUPED[table.name])]
    known = [group for group in groups if group is not None]
    if len(known) < len(groups):
        yield [by.is_(None)]
    for start in range(0, len(known), _GROUPS_AT_ONCE):
        yield [by.in_(known[start : start + _GROUPS_AT_ONCE])]


def salts_of(connection: Connection, run: int, name: str) -> dict[str, tuple[bytes, str]]:
    """Salt and hash of each group of rows of a table that there is."""
    salts = tables.salts.c
    query = select(salts.rows, salts.salt, salts.hash).where(salts.run == run, salts.of == name)
    return {row.rows: (row.salt, row.hash) for row in connection.execute(query)}


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
        [int(span) for name in SPANNED for span in said.get(name, {})]
    except (ValueError, TypeError):
        return None
    return said if said.keys() <= GROUPED.keys() | SPANNED.keys() else None


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
    yield from _strays(connection, tables.salts.name)


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
    """What of a table is not what the journal says, or what the salts say, which is the same."""
    known = {group: hashed for group, hashed in said.items() if hashed is not None}
    salts = salts_of(connection, run, name)
    differing = (group for group in salts.keys() | known if _said(salts, group) != known.get(group))
    for group in sorted(differing):
        yield f"{_group_name(name, group)}: the salt is not what was written"
    yield from unsaid(connection, run, name)


def _said(salts: dict[str, tuple[bytes, str]], group: str) -> str | None:
    return salts[group][1] if group in salts else None


def unsaid(
    connection: Connection, run: int, name: str, groups: Collection[Any] | None = None
) -> Iterator[str]:
    """What of the rows of a table is not what was written last.

    Args:
        connection: Where.
        run: Whose rows.
        name: Of the table.
        groups: Which groups of rows are looked at; all if None.
    """
    table, salts = tables.metadata.tables[name], salts_of(connection, run, name)
    gone = salts.keys() if groups is None else salts.keys() & set(map(str, groups))
    for group, rows in grouped_rows(connection, table, run, groups):
        gone -= {group}
        if group not in salts:
            yield f"{_group_name(name, group)}: rows that the journal does not know of"
            continue
        salt, expected = salts[group]
        found = Salted(salt)
        found.add(rows)
        if found.hash != expected:
            yield f"{_group_name(name, group)}: not what was written"
    for group in sorted(gone):
        yield f"{_group_name(name, group)}: rows that the journal speaks of are gone"


def _group_name(name: str, group: str) -> str:
    if name in SPANNED and group.isdecimal():
        first = int(group) * SPAN_ROWS
        return f"{name}, {SPANNED[name]} {first} to {first + SPAN_ROWS - 1}"
    label = GROUPED.get(name)
    return f"{name}, {label} {group}" if label else name


def _strays(connection: Connection, name: str) -> Iterator[str]:
    """Rows of runs that there are none; other runs in the database have journals of their own."""
    table, runs = tables.metadata.tables[name], select(tables.runs.c.id)
    query = select(run_column(table)).where(run_column(table).not_in(runs)).limit(1)
    if connection.execute(query).first() is not None:
        yield f"{name}: rows that belong to no run"
