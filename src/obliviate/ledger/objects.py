"""Objects: what the vault of a run holds, held, and has to destroy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from obliviate.clock import stamp
from obliviate.ledger import tables
from obliviate.ledger.change import batched
from obliviate.ledger.facts import ObjectFacts
from obliviate.ledger.requests import close_carried_out
from obliviate.ledger.rows import OBJECT_COLUMNS, held, insert_entries, set_state, stored_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager

    from sqlalchemy import ColumnElement

    from obliviate.ledger.change import Change
    from obliviate.ledger.database import Database
    from obliviate.ledger.facts import Entry


class Objects:
    """The objects of one run: live, condemned or destroyed."""

    def __init__(
        self,
        database: Database,
        run: int,
        changing: Callable[[str], AbstractContextManager[Change]],
    ) -> None:
        self._database, self._run, self._changing = database, run, changing

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

    def destroy_keys(self, keys: Collection[str]) -> None:
        """Destroy the data keys of objects: no copy of these can be read from now on."""
        if not keys:
            return
        columns = tables.objects.c
        doomed = self._keys(columns.sealed_key.is_not(None)) & set(keys)
        if not doomed:
            return
        with self._changing("data keys destroyed") as change:
            for some in batched(sorted(doomed)):
                change.update(tables.objects, columns.key.in_(some), {"sealed_key": None})
        self._database.flush()

    def replace(self, block: int, entry: Entry) -> None:
        """Put rebuilt objects in the place of lost ones; the entry says the same as before."""
        chain = tables.chain
        with self._changing(f"block {block} rebuilt") as change:
            is_block = chain.c.block == block
            old = held(change, is_block, OBJECT_COLUMNS)
            change.delete(chain, is_block)
            insert_entries(change, chain, [entry])
            kept = {stored.key for stored in entry.objects}
            set_state(change, old - kept, "condemned")

    def mark_destroyed(self, keys: Collection[str]) -> None:
        """Write down that objects are gone; with the last one, requests move on."""
        if keys:
            with self._changing("objects destroyed") as change:
                set_state(change, set(keys), "destroyed", destroyed=stamp())
                close_finished(change)
            self._database.flush()

    def close_requests(self) -> None:
        """Move requests on whose objects are all destroyed; for when there were none."""
        requests = tables.requests.c
        waiting = select(requests.id).where(
            requests.run == self._run, requests.state == "committed"
        )
        with self._database.reading() as connection:
            is_waiting = connection.execute(waiting.limit(1)).first() is not None
        if is_waiting:
            with self._changing("requests closed") as change:
                close_finished(change)


def close_finished(change: Change) -> None:
    """Move the requests on that were carried out, if nothing is left to destroy."""
    objects, chain = tables.objects.c, tables.chain.c
    condemned = select(objects.key).where(objects.run == change.run, objects.state == "condemned")
    if change.connection.execute(condemned.limit(1)).first() is None:
        inexact = select(chain.block).where(chain.run == change.run, chain.guarantee != "exact")
        is_exact = change.connection.execute(inexact.limit(1)).first() is None
        close_carried_out(change, is_exact=is_exact)
