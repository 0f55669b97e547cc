"""The life of a request, in rows: requested, planned, replaying, committed, destroyed, settled.

Each step is a change of its own or part of the change that makes it true: "committed" is written
in the transaction that rewrites the chain, and so on. A crash leaves a request at the step before.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import func, select, true

from obliviate.clock import stamp
from obliviate.errors import RefusedMeanwhile
from obliviate.ledger import tables
from obliviate.ledger.chain_rows import columns_of
from obliviate.ledger.change import batched
from obliviate.ledger.database import damaged
from obliviate.ledger.facts import CARRIED_OUT, ERASED, OPEN, RequestFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from sqlalchemy import ColumnElement

    from obliviate.ledger.change import Change
    from obliviate.ledger.database import Database
    from obliviate.ledger.facts import RequestState

_NOTHING_ELSE: Mapping[str, Any] = MappingProxyType({})
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

    def all(self, *states: RequestState) -> list[RequestFacts]:
        """All requests, or those in some states, in the order in which they were received."""
        return self._facts(tables.requests.c.state.in_(states) if states else true())

    def request(self, number: int) -> RequestFacts:
        """One request."""
        found = self.find(number)
        if found is None:
            raise damaged(self._database.where, f"it lacks request {number}")
        return found

    def find(self, number: int) -> RequestFacts | None:
        """One request; None where there is none of that number."""
        return next(iter(self._facts(tables.requests.c.id == number)), None)

    def _facts(self, condition: ColumnElement[bool]) -> list[RequestFacts]:
        named, requests = tables.requested.c, tables.requests.c
        is_its = (named.run == requests.run) & (named.request == requests.id)
        counted = select(func.count()).where(is_its).scalar_subquery().label("records")
        columns = [column for column in requests if column.name != "run"]
        query = select(*columns, counted).where(requests.run == self._run, condition)
        with self._database.reading() as connection:
            found = [RequestFacts(**row) for row in connection.execute(query).mappings()]
        return sorted(found, key=lambda facts: facts.id)  # the database picks by state then

    def of_erasure(self, erasure: int) -> list[int]:
        """The numbers of the open requests that an erasure is to carry out."""
        rows = tables.requests.c
        is_its = (rows.run == self._run) & (rows.erasure == erasure) & rows.state.in_(OPEN)
        query = select(rows.id).where(is_its)
        with self._database.reading() as connection:
            return sorted(connection.execute(query).scalars())

    def waiting(self, numbers: Iterable[int]) -> tuple[int, ...]:
        """Those of some requests that wait: neither refused nor carried out meanwhile."""
        rows, found = tables.requests.c, list[int]()
        query = select(rows.id).where(rows.run == self._run, rows.state == "requested")
        with self._database.reading() as connection:
            for some in batched(list(numbers)):
                found += connection.execute(query.where(rows.id.in_(some))).scalars()
        return tuple(sorted(found))

    def records_of(self, numbers: Iterable[int]) -> NDArray[np.int64]:
        """The records that some requests name, sorted, each once."""
        named, found = tables.requested.c, list[int]()
        query = select(named.record).where(named.run == self._run)
        with self._database.reading() as connection:
            for some in batched(list(numbers)):
                found += connection.execute(query.where(named.request.in_(some))).scalars()
        return np.unique(np.array(found, dtype=np.int64))

    def named(self, numbers: Iterable[int]) -> Named:
        """What some requests name, some thousand of them at a time."""
        named, records, found = tables.requested.c, tables.records.c, [columns_of((), 3)]
        is_it = (records.run == named.run) & (records.record == named.record)
        query = (
            select(named.request, named.record, records.block)
            .select_from(tables.requested.outerjoin(tables.records, is_it))
            .where(named.run == self._run)
            .order_by(named.request, named.record)
        )
        with self._database.reading() as connection:
            for some in batched(sorted(numbers)):
                rows = connection.execute(query.where(named.request.in_(some))).all()
                if any(row.block is None for row in rows):
                    raise damaged(self._database.where, "it lacks records that belong there")
                found.append(columns_of(rows, 3))
        requests, ids, blocks = map(np.concatenate, zip(*found, strict=True))
        return Named(requests=requests, records=ids, blocks=blocks)


@dataclass(frozen=True, kw_only=True)
class Named:
    """What some requests name, a row for each of a request's records; all of shape (n,).

    Attributes:
        requests: The numbers of the requests, ascending.
        records: The ids of the records; ascending within a request.
        blocks: The blocks that hold them.
    """

    requests: NDArray[np.int64]
    records: NDArray[np.int64]
    blocks: NDArray[np.int64]

    def of(self, number: int) -> Named:
        """What one request names."""
        first, last = np.searchsorted(self.requests, [number, number + 1])
        return self._chosen(slice(first, last))

    def of_any(self, numbers: Iterable[int]) -> Named:
        """What some requests name together, each record once."""
        chosen = self._chosen(np.isin(self.requests, list(numbers)))
        return chosen._chosen(np.unique(chosen.records, return_index=True)[1])

    def _chosen(self, rows: Any) -> Named:
        return Named(
            requests=self.requests[rows], records=self.records[rows], blocks=self.blocks[rows]
        )


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
    """Put the open requests that an erasure carries out into a state; those elsewhere."""
    others = [each for each in OPEN if each != state]
    is_elsewhere = tables.requests.c.state.in_(others)
    is_its = tables.requests.c.erasure == erasure
    change.update(tables.requests, is_its & is_elsewhere, {"state": state, **values})


def plan(change: Change, numbers: Iterable[int], erasure: int) -> None:
    """Let an erasure take requests up.

    Raises:
        RefusedMeanwhile: One of them was: its records are not to be erased.
    """
    rows, values = tables.requests.c, {"state": "planned", "erasure": erasure, "reason": None}
    for some in batched(list(numbers)):
        is_refused = (rows.run == change.run) & rows.id.in_(some) & (rows.state == "refused")
        refused = change.connection.execute(select(rows.id).where(is_refused)).scalars().first()
        if refused is not None:
            raise RefusedMeanwhile(
                f"request {refused} was refused meanwhile",
                hint="call again, to carry out the others",
            )
        waits = rows.id.in_(some) & (rows.state == "requested")
        change.update(tables.requests, waits, values)


def close_carried_out(change: Change, *, is_exact: bool) -> None:
    """After the last object is destroyed: on to "destroyed", or "settled" in an exact chain."""
    if is_exact:
        values: dict[str, object] = {"state": "settled", "closed": stamp()}
        change.update(tables.requests, _IS_CARRIED_OUT, values)
    else:
        is_committed = tables.requests.c.state == "committed"
        change.update(tables.requests, is_committed, {"state": "destroyed"})


def commit_overtaken(change: Change, erasure: int | None, request: int | None = None) -> bool:
    """Requests that wait, but whose records are all erased by now, are carried out too.

    Args:
        change: Where.
        erasure: The erasure that did it.
        request: The only one that it can be; all of them if None.

    Returns:
        Whether there were any.
    """
    requests, named = tables.requests.c, tables.requested.c
    erased, erasures = tables.erased.c, tables.erasures.c
    committed = select(erasures.id).where(erasures.run == change.run, erasures.state.in_(ERASED))
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
    waits = requests.state == "requested"
    if request is not None:
        waits &= requests.id == request
    return bool(change.update(tables.requests, waits & ~is_left, values))
