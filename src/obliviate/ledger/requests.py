"""Requests: what was asked for, of which records, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import func, select, true

from obliviate.clock import stamp
from obliviate.ledger import tables
from obliviate.ledger.chain_rows import columns_of
from obliviate.ledger.change import batched, changing
from obliviate.ledger.database import RunRows, damaged
from obliviate.ledger.facts import OPEN, RequestFacts
from obliviate.ledger.request_rows import commit_overtaken, insert_request, writable
from obliviate.ledger.settling import close_finished

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from sqlalchemy import ColumnElement

    from obliviate.ledger.facts import RequestState

_ACKNOWLEDGED_SECONDS = 1.0


class Requests(RunRows):
    """The requests of one run."""

    def register(
        self, method: Mapping[str, object], records: NDArray[np.int64], *, due: str
    ) -> RequestFacts:
        """Register a request; any process may, also while another one writes to the run."""
        with changing(self._database, self._run, "request received", None) as change:
            number = insert_request(change, method, records, due=due)
            if commit_overtaken(change, None, number):
                close_finished(change)
        # what was acknowledged must not hang on the log beside the file
        self._database.flush(_ACKNOWLEDGED_SECONDS)
        return self.request(number)

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
        request = self.find(number)
        if request is None:
            raise damaged(self._database.where, f"it lacks request {number}")
        return request

    def find(self, number: int) -> RequestFacts | None:
        """One request; None where there is none of that number."""
        return next(iter(self._facts(tables.requests.c.id == number)), None)

    def _facts(self, condition: ColumnElement[bool]) -> list[RequestFacts]:
        named, rows = tables.requested.c, tables.requests.c
        is_its = (named.run == rows.run) & (named.request == rows.id)
        counted = select(func.count()).where(is_its).scalar_subquery().label("records")
        columns = [column for column in rows if column.name != "run"]
        query = select(*columns, counted).where(rows.run == self._run, condition)
        with self._database.reading() as connection:
            requests = [RequestFacts(**row) for row in connection.execute(query).mappings()]
        return sorted(requests, key=lambda facts: facts.id)  # the database picks by state then

    def of_erasure(self, erasure: int) -> list[int]:
        """The numbers of the open requests that an erasure is to carry out."""
        rows = tables.requests.c
        is_its = (rows.run == self._run) & (rows.erasure == erasure) & rows.state.in_(OPEN)
        query = select(rows.id).where(is_its)
        with self._database.reading() as connection:
            return sorted(connection.execute(query).scalars())

    def waiting(self, numbers: Iterable[int]) -> tuple[int, ...]:
        """Those of some requests that wait: neither refused nor carried out meanwhile."""
        rows, waiting = tables.requests.c, list[int]()
        query = select(rows.id).where(rows.run == self._run, rows.state == "requested")
        with self._database.reading() as connection:
            for some in batched(list(numbers)):
                waiting += connection.execute(query.where(rows.id.in_(some))).scalars()
        return tuple(sorted(waiting))

    def records_of(self, numbers: Iterable[int]) -> NDArray[np.int64]:
        """The records that some requests name, sorted, each once."""
        named, records = tables.requested.c, list[int]()
        query = select(named.record).where(named.run == self._run)
        with self._database.reading() as connection:
            for some in batched(list(numbers)):
                records += connection.execute(query.where(named.request.in_(some))).scalars()
        return np.unique(np.array(records, dtype=np.int64))

    def named(self, numbers: Iterable[int]) -> Named:
        """What some requests name, some thousand of them at a time."""
        named, records, pieces = tables.requested.c, tables.records.c, [columns_of((), 3)]
        is_it = (records.run == named.run) & (records.record == named.record)
        query = (
            select(named.request, named.record, records.kin)
            .select_from(tables.requested.outerjoin(tables.records, is_it))
            .where(named.run == self._run)
            .order_by(named.request, named.record)
        )
        with self._database.reading() as connection:
            for some in batched(sorted(numbers)):
                rows = connection.execute(query.where(named.request.in_(some))).all()
                if any(row.kin is None for row in rows):
                    raise damaged(self._database.where, "it lacks records that belong there")
                pieces.append(columns_of(rows, 3))
        requests, ids, groups = map(np.concatenate, zip(*pieces, strict=True))
        return Named(requests=requests, records=ids, groups=groups)


@dataclass(frozen=True, kw_only=True)
class Named:
    """What some requests name, a row for each of a request's records; all of shape (n,).

    Attributes:
        requests: The numbers of the requests, ascending.
        records: The ids of the records; ascending within a request.
        groups: The group that each record is dealt with; see `recipe.deal`.
    """

    requests: NDArray[np.int64]
    records: NDArray[np.int64]
    groups: NDArray[np.int64]

    def of(self, number: int) -> slice:
        """The rows of one request."""
        first, last = np.searchsorted(self.requests, [number, number + 1])
        return slice(int(first), int(last))

    def of_any(self, numbers: Iterable[int]) -> NDArray[np.int64]:
        """Rows of some requests, one for each record. Shape (m,)."""
        rows = np.flatnonzero(np.isin(self.requests, list(numbers)))
        chosen: NDArray[np.int64] = rows[np.unique(self.records[rows], return_index=True)[1]]
        return chosen
