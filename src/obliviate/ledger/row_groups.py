"""Groups of rows: by what the rows of a table are hashed together, and how.

The hashes are salted, each group of rows by a salt that is drawn anew whenever they change, and
the salt from before is destroyed. What an old entry of the journal says can then be compared with
nothing: it confirms no guess about what a row once said.
"""

from __future__ import annotations

import secrets
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
    "deals": "part",
    "samples": None,
    "objects": "key",
    "chain": "block",
    "contents": "block",
    "staged": "block",
    "erasures": "id",
    "erased": "erasure",
    "requests": "id",
    "requested": "request",
    "exports": "id",
}
"""By which column the rows of a table are hashed together; None: all rows of the run at once."""

SPANNED = {"records": "record", "further": "record", "subjects": "id"}
"""Tables too long for a hash a row: they are hashed by spans of so many numbers."""
SPAN_ROWS = 4_000
HASH_DIGITS = 32  # of the 64: rows are told apart, the chain itself is hashed in full
_SALT_BYTES = 16
_GROUPS_AT_ONCE = 500
_ROWS_AT_ONCE = 20_000


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
