"""Erasures: what is erased, from the moment it is written down until it is carried out."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import func, select, true

from obliviate.clock import stamp
from obliviate.ledger import tables
from obliviate.ledger.chain_rows import (
    OBJECT_COLUMNS,
    blocks_in_words,
    entry_of,
    insert_entries,
    live_objects,
    objects_of,
    set_contents,
    set_state,
)
from obliviate.ledger.change import batched
from obliviate.ledger.database import RunRows
from obliviate.ledger.facts import DROPPED, STITCHED, ErasureFacts
from obliviate.ledger.newcomers import unlink
from obliviate.ledger.outcome import Outcome
from obliviate.ledger.request_rows import commit_overtaken, insert_request, move, plan, writable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from sqlalchemy import ColumnElement

    from obliviate.ledger.change import Change
    from obliviate.ledger.facts import Entry


class Erasures(RunRows):
    """The erasures of one run."""

    def begin(
        self,
        kind: str,
        method: Mapping[str, object],
        records: NDArray[np.int64],
        *,
        requests: Iterable[int] = (),
        due: str | None = None,
    ) -> ErasureFacts:
        """Write down what is to be erased, before anything is done.

        Args:
            kind: "forget" or "settle".
            method: Its name and options.
            records: To erase.
            requests: What waits and is carried out by this.
            due: The deadline, where this is a request of its own.
        """
        with self._changing(f"{kind} begun") as change:
            number = change.next_id(tables.erasures)
            row = {
                "id": number,
                "state": "running",
                "kind": kind,
                "method": dict(method),
                "started": stamp(),
            }
            change.insert(tables.erasures, [row])
            rows = [{"record": int(record), "erasure": number} for record in records]
            change.insert(tables.erased, rows)
            own = [] if due is None else [insert_request(change, method, records, due=due)]
            plan(change, [*requests, *own], number)
        return self.erasure(number)

    def erasure(self, number: int) -> ErasureFacts:
        """One erasure."""
        return next(iter(self._facts(tables.erasures.c.id == number)))

    def all(self) -> list[ErasureFacts]:
        """All erasures, in the order in which they were begun."""
        return self._facts(true())

    def _facts(self, condition: ColumnElement[bool]) -> list[ErasureFacts]:
        erased, erasures = tables.erased.c, tables.erasures.c
        is_its = (erased.run == erasures.run) & (erased.erasure == erasures.id)
        counted = select(func.count()).where(is_its).scalar_subquery().label("records")
        columns = [column for column in erasures if column.name != "run"]
        query = select(*columns, counted).where(erasures.run == self._run, condition)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(erasures.id)).mappings()
            return [ErasureFacts(**{**row, "outcome": _outcome(row["outcome"])}) for row in rows]

    def running(self) -> ErasureFacts | None:
        """The erasure that was begun and is neither carried out nor given up."""
        return next(iter(self._facts(tables.erasures.c.state == "running")), None)

    def records_of(self, number: int) -> NDArray[np.int64]:
        """The records that an erasure erases, sorted."""
        erased = tables.erased.c
        query = select(erased.record).where(erased.run == self._run, erased.erasure == number)
        with self._database.reading() as connection:
            records = connection.execute(query.order_by(erased.record)).scalars()
            return np.array(list(records), dtype=np.int64)

    def stage(self, entries: Sequence[Entry]) -> None:
        """Keep replayed blocks of a running erasure, so that a crash does not lose them."""
        with self._changing(f"{blocks_in_words(entries)} replayed") as change:
            insert_entries(change, tables.staged, entries)
            erasure = entries[0].erasure
            if erasure is not None:
                move(change, erasure, "replaying")

    def staged(self, erasure: int) -> dict[int, Entry]:
        """The blocks that a running erasure has replayed so far."""
        query = select(tables.staged).where(
            tables.staged.c.run == self._run, tables.staged.c.erasure == erasure
        )
        with self._database.reading() as connection:
            objects = live_objects(connection, self._run)
            return {row.block: entry_of(row, objects) for row in connection.execute(query)}

    def commit(
        self,
        erasure: int,
        *,
        replaced: Sequence[Entry],
        stitched: Sequence[range],
        dropped: range = range(0),
        outcome: Outcome,
        contents: Mapping[int, bytes] = MappingProxyType({}),
    ) -> None:
        """Carry out an erasure, all or nothing: rewrite the chain and condemn the old objects.

        Args:
            erasure: Its number.
            replaced: New entries.
            stitched: Blocks whose state is from now on the stitched one: they keep their update and
                lose keyframe, optimizer state and digest, unless they are among the replaced too.
            dropped: Blocks of which nothing is kept, but that they were trained on; they may be
                among the others too, which come later.
            outcome: What came of it.
            contents: What the records of blocks are from now on, where that is another.
        """
        chain, blocks = tables.chain, [entry.block for entry in replaced]
        with self._changing("erasure committed") as change:
            if len(dropped):
                is_dropped = chain.c.block.between(dropped.start, dropped.stop - 1)
                set_state(change, objects_of(change, is_dropped, OBJECT_COLUMNS), "condemned")
                change.update(chain, is_dropped, {**DROPPED, "erasure": erasure})
            for span in stitched:
                is_stitched = chain.c.block.between(span.start, span.stop - 1)
                set_state(
                    change, objects_of(change, is_stitched, ("keyframe", "optimizer")), "condemned"
                )
                change.update(chain, is_stitched, {**STITCHED, "erasure": erasure})
            for some in batched(blocks):
                is_replaced = chain.c.block.in_(some)
                set_state(change, objects_of(change, is_replaced, OBJECT_COLUMNS), "condemned")
                change.delete(chain, is_replaced)
            is_staged = tables.staged.c.erasure == erasure
            staged = objects_of(change, is_staged, OBJECT_COLUMNS, table=tables.staged)
            change.delete(tables.staged, is_staged)
            insert_entries(change, chain, replaced)
            # a stitched update that a new entry goes on holding is spared
            kept = {stored.key for entry in replaced for stored in entry.objects}
            set_state(change, kept, "live")
            set_state(change, staged - kept, "condemned")
            mine = (tables.erased.c.run == self._run) & (tables.erased.c.erasure == erasure)
            records = select(tables.erased.c.record).where(mine)
            change.delete(tables.samples, tables.samples.c.record.in_(records))
            unlink(change, change.connection.execute(records).scalars())
            set_contents(change, contents)
            self._finish(change, erasure, state="committed", outcome=outcome)
            move(change, erasure, "committed")
            commit_overtaken(change, erasure)

    def begin_again(self, erasure: int, method: Mapping[str, object]) -> ErasureFacts:
        """Go on with a running erasure by another method; what was staged is condemned.

        Args:
            erasure: Its number.
            method: The method's name and options.
        """
        with self._changing("erasure begun again, from further back") as change:
            _condemn_staged(change, erasure)
            is_its = tables.erasures.c.id == erasure
            change.update(tables.erasures, is_its, {"method": dict(method)})
        return self.erasure(erasure)

    def give_up(self, erasure: int, reason: str, *, is_refused: bool = True) -> None:
        """Take a running erasure back: what it staged is condemned, its records are not erased.

        Args:
            erasure: Its number.
            reason: In words.
            is_refused: Whether its requests end with it; else they wait to be taken up again.
        """
        reason = writable(reason)
        with self._changing("erasure taken back") as change:
            _condemn_staged(change, erasure)
            change.delete(tables.erased, tables.erased.c.erasure == erasure)
            self._finish(change, erasure, state="failed", outcome=Outcome(stop_reason=reason))
            if is_refused:
                move(change, erasure, "refused", {"reason": reason, "closed": stamp()})
            else:
                move(change, erasure, "requested", {"reason": reason, "erasure": None})

    @staticmethod
    def _finish(change: Change, number: int, *, state: str, outcome: Outcome) -> None:
        values = {"state": state, "outcome": outcome.to_json(), "finished": stamp()}
        change.update(tables.erasures, tables.erasures.c.id == number, values)


def _condemn_staged(change: Change, erasure: int) -> None:
    """Let go of what an erasure has staged, but for objects that the chain holds, too."""
    is_staged = tables.staged.c.erasure == erasure
    keys = objects_of(change, is_staged, OBJECT_COLUMNS, table=tables.staged)
    set_state(change, keys - objects_of(change, true(), OBJECT_COLUMNS), "condemned")
    change.delete(tables.staged, is_staged)


def _outcome(values: Mapping[str, Any] | None) -> Outcome | None:
    return None if values is None else Outcome.from_json(values)
