"""The journal: an append-only list of all that was done, each entry hashed with the one before.

An entry names every group of rows that it touched, with a hash of what they said afterwards. So
neither the journal nor any row that it speaks of can be changed, added or removed from outside
without being found, unless everything since is forged too: whoever wrote down the hash of the last
entry (`head`) somewhere else finds that as well.

How rows are hashed, so that the journal confirms no guess about them: `row_groups`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from obliviate.ledger import tables
from obliviate.ledger.database import RunRows
from obliviate.ledger.row_groups import (
    GROUPED,
    SPAN_ROWS,
    SPANNED,
    Salted,
    grouped_rows,
    run_column,
    salts_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy import Connection


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


class Journal(RunRows):
    """The journal of one run."""

    def entries(self) -> list[JournalEntry]:
        """All that was done, from the first entry on."""
        with self._database.reading() as connection:
            return list(_entries(connection, self._run))

    def head(self) -> str:
        """The hash of the last entry, which stands for all of the journal."""
        columns = tables.journal.c
        query = select(columns.hash).where(columns.run == self._run)
        with self._database.reading() as connection:
            head = connection.execute(query.order_by(columns.number.desc()).limit(1)).scalar()
        return head or "none: the journal is empty"

    def hash_of(self, number: int) -> str | None:
        """The hash of one entry; None where there is none of that number."""
        columns = tables.journal.c
        query = select(columns.hash).where(columns.run == self._run, columns.number == number)
        with self._database.reading() as connection:
            return connection.execute(query).scalar()

    def end(self) -> tuple[int, str]:
        """The number and the hash of the last entry."""
        columns = tables.journal.c
        query = select(columns.number, columns.hash).where(columns.run == self._run)
        with self._database.reading() as connection:
            row = connection.execute(query.order_by(columns.number.desc()).limit(1)).one()
        return row.number, row.hash

    def begin_writing(self, token: str) -> None:
        """Write down that a process is about to write.

        Args:
            token: What no other process has: two copies of a ledger that go on differ from here.
        """
        with self._changing(f"writing begun by {token}"):
            pass

    def days_of_changes(self) -> list[tuple[str, str]]:
        """When something was written down: the first and the last time of each day, in order.

        Times are ISO 8601 in UTC; the days are those that the clocks of the writers showed.
        """
        time = tables.journal.c.time
        query = (
            select(func.min(time), func.max(time))
            .where(tables.journal.c.run == self._run)
            .group_by(func.substr(time, 1, len("2030-12-20")))
        )
        with self._database.reading() as connection:
            return sorted((first, last) for first, last in connection.execute(query))


def _entries(connection: Connection, run: int) -> Iterator[JournalEntry]:
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
        rows = {table: dict(groups) for table, groups in dict(json.loads(text)).items()}
        [int(span) for name in SPANNED for span in rows.get(name, {})]
    except (ValueError, TypeError):
        return None
    return rows if rows.keys() <= GROUPED.keys() | SPANNED.keys() else None


def faults(connection: Connection, run: int, name: str) -> Iterator[str]:
    """What was changed from outside: entries of the journal, and rows that it speaks of."""
    broken = list(_broken_entries(connection, run, name))
    yield from broken
    if broken:
        return  # what a forged journal says of rows is worth nothing
    hashes: dict[str, dict[str, str | None]] = {}
    for entry in _entries(connection, run):
        for table, groups in entry.rows.items():
            hashes.setdefault(table, {}).update(groups)
    for table in (*GROUPED, *SPANNED):
        yield from _table_faults(connection, run, table, hashes.get(table, {}))
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
    connection: Connection, run: int, name: str, hashes: dict[str, str | None]
) -> Iterator[str]:
    """What of a table is not what the journal says, or what the salts say, which is the same."""
    known = {group: hashed for group, hashed in hashes.items() if hashed is not None}
    salted = {group: hashed for group, (_, hashed) in salts_of(connection, run, name).items()}
    differing = (group for group in salted.keys() | known if salted.get(group) != known.get(group))
    for group in sorted(differing):
        yield f"{_group_name(name, group)}: the salt is not what was written"
    yield from row_faults(connection, run, name)


def row_faults(
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
    absent = salts.keys() if groups is None else salts.keys() & set(map(str, groups))
    for group, rows in grouped_rows(connection, table, run, groups):
        absent -= {group}
        if group not in salts:
            yield f"{_group_name(name, group)}: rows that the journal does not know of"
            continue
        salt, expected = salts[group]
        salted = Salted(salt)
        salted.add(rows)
        if salted.hash != expected:
            yield f"{_group_name(name, group)}: not what was written"
    for group in sorted(absent):
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
