"""The life of a request, in rows: requested, planned, replaying, committed, destroyed, settled.

Each step is a change of its own or part of the change that makes it true: "committed" is written
in the transaction that rewrites the chain, and so on. A crash leaves a request at the step before.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from obliviate.clock import stamp
from obliviate.errors import RefusedMeanwhile
from obliviate.ledger import tables
from obliviate.ledger.change import batched
from obliviate.ledger.facts import CARRIED_OUT, ERASED, OPEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from obliviate.ledger.change import Change
    from obliviate.ledger.facts import RequestState

_NOTHING_ELSE: Mapping[str, Any] = MappingProxyType({})
_IS_CARRIED_OUT = tables.requests.c.state.in_(CARRIED_OUT)


def writable(text: str) -> str:
    """A text that any database takes: without zeros and without halves of characters."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


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
