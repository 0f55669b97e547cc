"""Settling: what an erasure leaves behind once the chain is exact and all of before is destroyed.

What that is, and why: `ledger.outcome.Outcome`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from obliviate.ledger import tables
from obliviate.ledger.exports import redact_exports
from obliviate.ledger.facts import ERASED
from obliviate.ledger.outcome import Outcome
from obliviate.ledger.request_rows import close_carried_out

if TYPE_CHECKING:
    from obliviate.ledger.change import Change


def close_finished(change: Change, *, is_flushed: bool = False) -> bool:
    """Move on what was carried out, if nothing is left to destroy.

    Args:
        change: Where.
        is_flushed: Whether what was deleted before this change is in no file any more.

    Returns:
        Whether that was the last step; else there is another one after the next flush.
    """
    objects, chain = tables.objects.c, tables.chain.c
    condemned = select(objects.key).where(objects.run == change.run, objects.state == "condemned")
    if change.connection.execute(condemned.limit(1)).first() is not None:
        return True
    inexact = select(chain.block).where(chain.run == change.run, chain.guarantee != "exact")
    if change.connection.execute(inexact.limit(1)).first() is not None:
        close_carried_out(change, is_exact=False)
        return True
    has_redacted = _redact(change)
    is_committed = tables.erasures.c.state == "committed"
    mine = select(tables.erasures.c.id).where(tables.erasures.c.run == change.run, is_committed)
    is_last = change.connection.execute(mine.limit(1)).first() is None
    if is_flushed and not has_redacted:
        change.update(tables.erasures, is_committed, {"state": "settled"})
        is_last = True
    close_carried_out(change, is_exact=is_last)
    return is_last


def _redact(change: Change) -> bool:
    """Keep of each erasure what was done, and no number that hangs on states that are gone."""
    erasures, chain = tables.erasures, tables.chain.c
    last = select(chain.digest).where(chain.run == change.run).order_by(chain.block.desc())
    digest = change.connection.execute(last.limit(1)).scalar()
    query = select(erasures.c.id, erasures.c.method, erasures.c.outcome).where(
        erasures.c.run == change.run, erasures.c.state.in_(ERASED)
    )
    has_redacted = redact_exports(change, digest)
    for row in change.connection.execute(query).all():
        outcome = Outcome.from_json(row.outcome)
        # an exact replay stops at the end, whoever was erased
        lasting = outcome.lasting(digest, is_exact=row.method.get("name") == "exact")
        if lasting != outcome:
            change.update(erasures, erasures.c.id == row.id, {"outcome": lasting.to_json()})
            has_redacted = True
    return has_redacted
