"""A change of the ledger: one transaction, and the entry of the journal that tells of it."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update

from obliviate.clock import stamp
from obliviate.errors import LeaseLost
from obliviate.ledger import journal, tables
from obliviate.ledger.database import MOST_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Table

    from obliviate.ledger.database import Database

ROWS_AT_ONCE = 10_000


def batched(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Some items at a time."""
    for start in range(0, len(items), ROWS_AT_ONCE):
        yield items[start : start + ROWS_AT_ONCE]


class Change:
    """What is written goes through here, so that nothing is written that the journal misses.

    Attributes:
        connection: To read with.
        run: Whose rows are changed.
    """

    def __init__(self, connection: Connection, run: int) -> None:
        self.connection, self.run = connection, run
        self._touched: dict[str, set[Any]] = {}
        self._spans: dict[str, dict[str, str | None]] = {}
        self._all: dict[str, dict[str, str | None]] = {}

    def insert(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows of the run."""
        for some in batched(rows):
            self.connection.execute(insert(table), [{**row, "run": self.run} for row in some])
        by = journal.GROUPED[table.name]
        if rows:
            self._touch(table, {row.get(by) if by else None for row in rows})

    def update(
        self, table: Table, condition: ColumnElement[bool], values: Mapping[str, Any]
    ) -> int:
        """Change rows of the run; return how many."""
        condition = (journal.run_column(table) == self.run) & condition
        self._touch(table, self._groups(table, condition))
        return self.connection.execute(update(table).where(condition).values(**values)).rowcount

    def delete(self, table: Table, condition: ColumnElement[bool]) -> None:
        """Delete rows of the run."""
        condition = (table.c.run == self.run) & condition
        self._touch(table, self._groups(table, condition))
        self.connection.execute(delete(table).where(condition))

    def touch_all(self, table: Table) -> None:
        """Tell of all rows of the run in a table."""
        self._all[table.name] = dict(journal.group_hashes(self.connection, table, self.run))

    def wrote_all(self, table: Table) -> None:
        """Tell of all rows of the run in a long table."""
        column = table.c[journal.SPANNED[table.name]]
        query = select(func.min(column), func.max(column)).where(table.c.run == self.run)
        first, last = self.connection.execute(query).one()
        if first is not None:
            span = journal.span_hash(self.connection, table, self.run, (first, last))
            self.wrote_span(table, first, last, span)

    def wrote_span(self, table: Table, first: int, last: int, hashed: str) -> None:
        """Tell of rows of a long table that were written beside this, from one number to another.

        Args:
            table: Which.
            first: The number of the first row.
            last: The number of the last row.
            hashed: What `journal.span_hash` says of them.
        """
        self._spans.setdefault(table.name, {})[f"{first}-{last}"] = hashed

    def record(self, event: str) -> None:
        """Write the entry of the journal; the last thing in the transaction."""
        rows = {name: self._hashes(name, groups) for name, groups in self._touched.items()}
        body = json.dumps(rows | self._spans | self._all, sort_keys=True)
        query = (
            select(tables.journal.c.number, tables.journal.c.hash)
            .where(tables.journal.c.run == self.run)
            .order_by(tables.journal.c.number.desc())
            .limit(1)
        )
        last = self.connection.execute(query).first()
        number, previous = (last.number + 1, last.hash) if last else (1, self._origin())
        time = stamp()
        row = {
            "run": self.run,
            "number": number,
            "time": time,
            "event": event,
            "body": body,
            "hash": journal.chained(previous, number, time, event, body),
        }
        self.connection.execute(insert(tables.journal), row)

    def next_id(self, table: Table) -> int:
        """The next number of a table whose rows are numbered from 1."""
        query = select(func.max(table.c.id)).where(table.c.run == self.run)
        return int(self.connection.execute(query).scalar() or 0) + 1

    def _origin(self) -> str:
        query = select(tables.runs.c.name).where(tables.runs.c.id == self.run)
        return journal.origin(self.connection.execute(query).scalar_one())

    def _touch(self, table: Table, groups: set[Any]) -> None:
        self._touched.setdefault(table.name, set()).update(groups)

    def _groups(self, table: Table, condition: ColumnElement[bool]) -> set[Any]:
        by = journal.GROUPED[table.name]
        if by is None:
            return {None}
        return set(self.connection.execute(select(table.c[by]).where(condition)).scalars())

    def _hashes(self, name: str, groups: set[Any]) -> dict[str, str | None]:
        table = tables.metadata.tables[name]
        is_grouped = journal.GROUPED[name] is not None
        found = journal.group_hashes(
            self.connection, table, self.run, groups if is_grouped else None
        )
        names = map(str, groups) if is_grouped else [""]
        return {group: found.get(group) for group in names}


@contextlib.contextmanager
def changing(database: Database, run: int, event: str, holder: str | None) -> Iterator[Change]:
    """Change the ledger of a run, all or nothing.

    Args:
        database: Where.
        run: Whose rows.
        event: What is done, in words, for the journal.
        holder: Who writes, where a lease is held.

    Raises:
        LeaseLost: Another process took the lease over in the meantime.
    """
    # who holds the lease is in the middle of long work: a moment more is better than to give it up
    patience = None if holder is None else MOST_SECONDS
    with database.writing(patience_seconds=patience) as connection:
        # one at a time, also on a server: the journal has one end
        connection.execute(
            select(tables.runs.c.id).where(tables.runs.c.id == run).with_for_update()
        ).one()
        if holder is not None:
            check_holder(connection, run, holder)
        change = Change(connection, run)
        yield change
        change.record(event)


def check_holder(connection: Connection, run: int, holder: str) -> None:
    """See that a lease is still held."""
    query = select(tables.leases.c.holder).where(tables.leases.c.run == run).with_for_update()
    if connection.execute(query).scalar() != holder:
        raise LeaseLost(
            "another process took this run over, because this one gave no sign of life for a while",
            hint="nothing was damaged; call again: it goes on from what was committed",
        )
