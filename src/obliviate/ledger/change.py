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
from obliviate.ledger.row_groups import Salted, group_in, group_of, grouped_rows, run_column

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
        self._written: dict[str, dict[str, Salted]] = {}

    def insert(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows of the run."""
        for some in batched(rows):
            self.connection.execute(insert(table), [{**row, "run": self.run} for row in some])
        if rows:
            self.touch(table, {group_in(table, row) for row in rows})

    def update(
        self, table: Table, condition: ColumnElement[bool], values: Mapping[str, Any]
    ) -> int:
        """Change rows of the run; return how many."""
        condition = (run_column(table) == self.run) & condition
        self.touch(table, self._groups(table, condition))
        return self.connection.execute(update(table).where(condition).values(**values)).rowcount

    def delete(self, table: Table, condition: ColumnElement[bool]) -> None:
        """Delete rows of the run."""
        condition = (table.c.run == self.run) & condition
        self.touch(table, self._groups(table, condition))
        self.connection.execute(delete(table).where(condition))

    def wrote(self, table: Table, spans: Mapping[str, Salted]) -> None:
        """Tell of whole spans of a long table that were written, and hashed, beside this."""
        self._written.setdefault(table.name, {}).update(spans)

    def record(self, event: str) -> None:
        """Write the entry of the journal; the last thing in the transaction."""
        rows: dict[str, dict[str, str | None]] = {}
        for name, spans in self._written.items():
            rows.setdefault(name, {}).update(self._salted(name, spans, dict.fromkeys(spans)))
        for name, groups in self._touched.items():
            rows.setdefault(name, {}).update(self._hashes(name, groups))
        body = json.dumps(rows, sort_keys=True)
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

    def touch(self, table: Table, groups: set[Any]) -> None:
        """Tell of groups of rows that are changed."""
        self._touched.setdefault(table.name, set()).update(groups)

    def _groups(self, table: Table, condition: ColumnElement[bool]) -> set[Any]:
        group = group_of(table)
        if group is None:
            return {None}
        query = select(group).where(condition).distinct()
        return set(self.connection.execute(query).scalars())

    def _hashes(self, name: str, groups: set[Any]) -> dict[str, str | None]:
        """Hash groups of rows anew, each with a salt of its own."""
        if not groups:
            return {}
        table, salted = tables.metadata.tables[name], dict[str, Salted]()
        for group, rows in grouped_rows(self.connection, table, self.run, groups):
            salted[group] = Salted()
            salted[group].add(rows)
        is_whole = group_of(table) is None
        names = [""] if is_whole else [*map(str, groups)]
        return self._salted(name, salted, dict.fromkeys(names))

    def _salted(
        self, name: str, salted: Mapping[str, Salted], names: dict[str, None]
    ) -> dict[str, str | None]:
        """Put new salts in the place of those that groups had; whoever has none is gone."""
        salts = tables.salts
        mine = (salts.c.run == self.run) & (salts.c.of == name)
        for some in batched(list(names)):
            self.connection.execute(delete(salts).where(mine, salts.c.rows.in_(some)))
        rows = [
            {"run": self.run, "of": name, "rows": group, "salt": each.salt, "hash": each.hash}
            for group, each in salted.items()
        ]
        for part in batched(rows):
            self.connection.execute(insert(salts), part)
        return {group: salted[group].hash if group in salted else None for group in names}


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
