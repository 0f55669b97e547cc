"""Objects: what the vault of a run holds, held, and has to destroy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select

from obliviate.clock import stamp
from obliviate.ledger import tables
from obliviate.ledger.chain_rows import (
    OBJECT_COLUMNS,
    insert_entries,
    objects_of,
    set_state,
    stored_of,
)
from obliviate.ledger.change import batched
from obliviate.ledger.facts import CARRIED_OUT, ObjectFacts
from obliviate.ledger.settling import close_finished

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager

    from sqlalchemy import ColumnElement, Select

    from obliviate.ledger.change import Change
    from obliviate.ledger.database import Database
    from obliviate.ledger.facts import Entry

_NOTHING_TOLD = {"size_bytes": None, "hash": None, "sealed_key": None}


class Objects:
    """The objects of one run: live, condemned or destroyed."""

    def __init__(
        self,
        database: Database,
        run: int,
        changing: Callable[[str], AbstractContextManager[Change]],
        destroy_reports: Callable[[], None],
    ) -> None:
        self._database, self._run, self._changing = database, run, changing
        self._destroy_reports = destroy_reports

    def all(self) -> list[ObjectFacts]:
        """All objects that there are or were, in the order of their making."""
        columns = tables.objects.c
        query = (
            select(tables.objects)
            .where(columns.run == self._run)
            .order_by(columns.made, columns.key)
        )
        with self._database.reading() as connection:
            return [
                ObjectFacts(
                    stored=stored_of(row), state=row.state, made=row.made, destroyed=row.destroyed
                )
                for row in connection.execute(query)
            ]

    def keys(self, *states: str) -> set[str]:
        """The keys of the objects that are in one of the states."""
        return self._keys(tables.objects.c.state.in_(states))

    def _keys(self, condition: ColumnElement[bool]) -> set[str]:
        columns = tables.objects.c
        query = select(columns.key).where(columns.run == self._run, condition)
        with self._database.reading() as connection:
            return set(connection.execute(query).scalars())

    def wipe(self, keys: Collection[str]) -> bool:
        """Destroy what the ledger says of objects that are to be destroyed.

        Without their data keys no copy can be read any more; by their hashes and sizes a guess at
        their content could be confirmed.

        Returns:
            Whether none of it is in any file of the database any more; see `Database.flush`.
        """
        columns = tables.objects.c
        telling = [columns[name].is_not(None) for name in _NOTHING_TOLD]
        doomed = self._keys(or_(*telling)) & set(keys)
        if doomed:
            with self._changing("data keys destroyed") as change:
                for some in batched(sorted(doomed)):
                    change.update(tables.objects, columns.key.in_(some), _NOTHING_TOLD)
        return self._database.flush() if keys else True

    def replace(self, block: int, entry: Entry) -> None:
        """Put rebuilt objects in the place of lost ones; the entry says the same as before."""
        chain = tables.chain
        with self._changing(f"block {block} rebuilt") as change:
            is_block = chain.c.block == block
            old = objects_of(change, is_block, OBJECT_COLUMNS)
            change.delete(chain, is_block)
            insert_entries(change, chain, [entry])
            kept = {stored.key for stored in entry.objects}
            set_state(change, old - kept, "condemned")

    def mark_destroyed(self, keys: Collection[str]) -> None:
        """Write down that objects are gone; with the last one, requests move on."""
        if keys:
            with self._changing("objects destroyed") as change:
                values = {"state": "destroyed", "destroyed": stamp(), **_NOTHING_TOLD}
                for some in batched(sorted(keys)):
                    change.update(tables.objects, tables.objects.c.key.in_(some), values)
        self.close_requests()

    def close_requests(self) -> None:
        """Move on what was carried out, as far as what held it is destroyed by now."""
        for _ in range(2):  # what was measured is deleted; then it is written down that it is gone
            is_due, is_exact = self._due()
            if not (is_due and self._database.flush()):
                return
            if is_exact:
                self._destroy_reports()
            with self._changing("erasures closed") as change:
                if close_finished(change, is_flushed=True):
                    return

    def _due(self) -> tuple[bool, bool]:
        """Whether something that was carried out can be closed, and whether the chain is exact."""
        columns, requests, erasures = tables.objects.c, tables.requests.c, tables.erasures.c
        chain = tables.chain.c
        left = select(columns.key).where(columns.run == self._run, columns.state == "condemned")
        inexact = select(chain.block).where(chain.run == self._run, chain.guarantee != "exact")
        committed = [
            select(each.id).where(each.run == self._run, each.state == "committed")
            for each in (requests, erasures)
        ]
        waiting = select(requests.id).where(
            requests.run == self._run, requests.state.in_(CARRIED_OUT)
        )
        with self._database.reading() as connection:

            def is_any(query: Select[Any]) -> bool:
                return connection.execute(query.limit(1)).first() is not None

            is_exact = not is_any(inexact)
            if is_any(left):
                return False, is_exact
            return any(map(is_any, [*committed, waiting] if is_exact else committed[:1])), is_exact
