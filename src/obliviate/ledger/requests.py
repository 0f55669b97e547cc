"""The life of a request, in rows: requested, planned, replaying, committed, destroyed, settled.

Each step is a change of its own or part of the change that makes it true: "committed" is written
in the transaction that rewrites the chain, and so on. A crash leaves a request at the step before.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import func, select

from obliviate.clock import stamp
from obliviate.errors import UnknownRequest
from obliviate.ledger import tables
from obliviate.ledger.facts import CARRIED_OUT, OPEN, RequestFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from obliviate.ledger.change import Change
    from obliviate.ledger.database import Database
    from obliviate.ledger.facts import RequestState

_NOTHING_ELSE: Mapping[str, Any] = MappingProxyType({})
_IS_OPEN = tables.requests.c.state.in_(OPEN)
_IS_CARRIED_OUT = tables.requests.c.state.in_(CARRIED_OUT)


def writable(text: str) -> str:
    """A text that any database takes: without zeros and without halves of characters."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


class Requests:
    """The requests of one run."""

    def __init__(
        self,
        database: Database,
        run: int,
        changing: Callable[[str], AbstractContextManager[Change]],
    ) -> None:
        self._database, self._run, self._changing = database, run, changing

    def refuse(self, number: int, reason: str) -> bool:
        """Close a request that waits, without carrying it out; say whether it did wait."""
        is_it = (tables.requests.c.id == number) & (tables.requests.c.state == "requested")
        with self._changing("request refused") as change:
            values = {"state": "refused", "reason": writable(reason), "closed": stamp()}
            return bool(change.update(tables.requests, is_it, values))

    def all(self) -> list[RequestFacts]:
        """All requests, in the order in which they were received."""
        named = tables.requested.c
        counts = (
            select(named.request, func.count().label("records"))
            .where(named.run == self._run)
            .group_by(named.request)
            .subquery()
        )
        columns = [column for column in tables.requests.c if column.name != "run"]
        query = (
            select(*columns, func.coalesce(counts.c.records, 0).label("records"))
            .outerjoin(counts, counts.c.request == tables.requests.c.id)
            .where(tables.requests.c.run == self._run)
            .order_by(tables.requests.c.id)
        )
        with self._database.reading() as connection:
            return [RequestFacts(**row) for row in connection.execute(query).mappings()]

    def request(self, number: int) -> RequestFacts:
        """One request."""
        return next(facts for facts in self.all() if facts.id == number)

    def records_of(self, numbers: Iterable[int]) -> NDArray[np.int64]:
        """The records that some requests name, sorted, each once."""
        named = tables.requested.c
        query = select(named.record).where(named.run == self._run, named.request.in_(list(numbers)))
        with self._database.reading() as connection:
            return np.unique(np.array(list(connection.execute(query).scalars()), dtype=np.int64))


def insert_request(
    change: Change, method: Mapping[str, object], records: NDArray[np.int64], *, due: str
) -> int:
    """Insert a request; return its number."""
    number = change.next_id(tables.requests)
    row = {
        "id": number,
        "state": "requested",
        "received": stamp(),
        "due": due,
        "method": dict(method),
    }
    change.insert(tables.requests, [row])
    rows = [{"request": number, "record": record} for record in records.tolist()]
    change.insert(tables.requested, rows)
    return number


def move(
    change: Change, erasure: int, state: RequestState, values: Mapping[str, Any] = _NOTHING_ELSE
) -> None:
    """Put the open requests that an erasure carries out into a state."""
    is_its = tables.requests.c.erasure == erasure
    change.update(tables.requests, is_its & _IS_OPEN, {"state": state, **values})


def plan(change: Change, numbers: Iterable[int], erasure: int) -> None:
    """Let an erasure take requests up.

    Raises:
        UnknownRequest: One of them was refused meanwhile: its records are not to be erased.
    """
    numbers, rows = list(numbers), tables.requests.c
    is_refused = (rows.run == change.run) & rows.id.in_(numbers) & (rows.state == "refused")
    refused = change.connection.execute(select(rows.id).where(is_refused)).scalars().first()
    if refused is not None:
        raise UnknownRequest(
            f"request {refused} was refused meanwhile", hint="call again, to carry out the others"
        )
    waits = rows.id.in_(numbers) & (rows.state == "requested")
    change.update(tables.requests, waits, {"state": "planned", "erasure": erasure, "reason": None})


def close_carried_out(change: Change, *, is_exact: bool) -> None:
    """After the last object is destroyed: on to "destroyed", or "settled" in an exact chain."""
    if is_exact:
        values: dict[str, object] = {"state": "settled", "closed": stamp()}
        change.update(tables.requests, _IS_CARRIED_OUT, values)
    else:
        is_committed = tables.requests.c.state == "committed"
        change.update(tables.requests, is_committed, {"state": "destroyed"})


def commit_overtaken(change: Change, erasure: int | None) -> None:
    """Requests that wait, but whose records are all erased by now, are carried out too."""
    requests, named = tables.requests.c, tables.requested.c
    erased, erasures = tables.erased.c, tables.erasures.c
    committed = select(erasures.id).where(erasures.run == change.run, erasures.state == "committed")
    is_erased = (
        select(erased.record)
        .where(
            erased.run == change.run,
            erased.record == named.record,
            erased.erasure.is_(None) | erased.erasure.in_(committed),
        )
        .exists()
    )
    is_left = (
        select(named.request)
        .where(named.run == change.run, named.request == requests.id, ~is_erased)
        .exists()
    )
    values = {"state": "committed", "erasure": erasure, "reason": "all its records were erased"}
    change.update(tables.requests, (requests.state == "requested") & ~is_left, values)
