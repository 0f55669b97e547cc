"""What a ledger is asked: statements, and the steps of SQLite's machine. Clocks would lie."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Engine, Pool, event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obliviate.ledger import Ledger

_STEPS_AT_ONCE = 100


@dataclass
class Asked:
    """What was asked.

    Attributes:
        statements: How many.
        steps: How many instructions a file's database carried out for them, in hundreds: about
            how many rows and entries of indexes it looked at.
    """

    statements: int = 0
    steps: int = 0


@contextlib.contextmanager
def asked(ledger: Ledger | None = None) -> Iterator[Asked]:
    """Count what a ledger is asked inside, or all of them are."""
    found = Asked()
    engine = Engine if ledger is None else ledger._database.engine
    pool = Pool if ledger is None else ledger._database.engine.pool

    def executed(*_given):
        found.statements += 1

    def stepped():
        found.steps += 1

    def taken(connection, *_given):
        if hasattr(connection, "set_progress_handler"):
            connection.set_progress_handler(stepped, _STEPS_AT_ONCE)

    def returned(connection, *_given):
        if hasattr(connection, "set_progress_handler"):
            connection.set_progress_handler(None, 0)

    listeners = [
        (engine, "before_cursor_execute", executed),
        (pool, "checkout", taken),
        (pool, "checkin", returned),
    ]
    for each in listeners:
        event.listen(*each)
    try:
        yield found
    finally:
        for each in listeners:
            event.remove(*each)
