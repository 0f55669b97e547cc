"""The lease: one writer per run at a time, on whatever machine.

Whoever writes holds the run's lease and lets it beat. Another one waits, and takes over when the
holder is dead: at once where that can be seen (the same machine, and no such process), else once
it has not seen the beat move for a while, by its own steady clock. So clocks that differ or jump
do no harm. A holder that was only asleep finds out at its next transaction, which is refused.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from obliviate.errors import ObliviateError, RunLocked
from obliviate.ledger import tables

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Connection

    from obliviate.ledger.database import Database

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 30.0
_POLL_SECONDS = 0.2


def this_process() -> dict[str, Any]:
    """What tells this process, and this thread of it, from all others anywhere."""
    return {
        "machine": _machine(),
        "host": platform.node(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "thread": threading.get_ident(),
    }


@functools.cache
def _machine() -> str:
    """The machine since it was started, and the room in it where process ids are given out."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return uuid.uuid4().hex  # nobody can be seen to be dead; silence tells


def _started(pid: int) -> str | None:
    """When a process was started, in the system's ticks; None where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def is_dead(process: dict[str, Any]) -> bool:
    """Whether a process is seen to be dead; it may be dead and not be seen."""
    is_here = process.get("machine") == _machine() and process.get("started") is not None
    return is_here and _started(process["pid"]) != process["started"]


class Lease:
    """The right to write to a run, held by one thread of one process.

    Attributes:
        holder: The name that it is held under; None while it is not.
    """

    def __init__(self, database: Database, run: int) -> None:
        self._database, self._run = database, run
        self.holder: str | None = None
        self._stop = threading.Event()
        self._seen: tuple[str | None, int, float] | None = None

    def try_taking(self) -> str | None:
        """Take the lease, if it is free or its holder is dead; say who has it, if not.

        Raises:
            RunLocked: This very thread holds it already: waiting would last for ever.
        """
        with self._database.writing() as connection:
            found = self._row(connection)
            if found is not None and found.holder is not None and not self._is_over(found):
                if {**this_process(), **found.process} == this_process():
                    raise RunLocked(
                        "this run is being written to by another call in this very thread",
                        hint="let that call come to its end first",
                    )
                return f"process {found.process['pid']} on {found.process['host']}"
            holder = uuid.uuid4().hex
            values = {"holder": holder, "process": this_process(), "beat": 0}
            if found is None:
                connection.execute(insert(tables.leases), {"run": self._run, **values})
            else:
                self._update(connection, values)
        self.holder = holder
        self._stop.clear()
        threading.Thread(target=self._beat, args=(holder,), daemon=True).start()
        return None

    def release(self) -> None:
        """Give the lease back, if it is still held."""
        self._stop.set()
        holder, self.holder = self.holder, None
        with contextlib.suppress(ObliviateError), self._database.writing() as connection:
            found = self._row(connection)
            if found is not None and found.holder == holder:
                self._update(connection, {"holder": None, "process": None})

    def held(self, *, patience_seconds: float | None) -> Generator[str, None, None]:
        """Take the lease; while another live process holds it, yield who, every so often.

        Raises:
            RunLocked: The patience was over first.
        """
        started = time.monotonic()
        while (other := self.try_taking()) is not None:
            if patience_seconds is not None and time.monotonic() - started >= patience_seconds:
                raise RunLocked(
                    f"{other} is writing to the run",
                    hint="wait for it to end, or stop it: what it began will be finished",
                )
            yield other
            time.sleep(_POLL_SECONDS)

    def _is_over(self, found: Any) -> bool:
        if is_dead(found.process):
            return True
        at, seen = time.monotonic(), self._seen
        if seen is None or seen[:2] != (found.holder, found.beat):
            self._seen = (found.holder, found.beat, at)
            return False
        return at - seen[2] >= SILENCE_SECONDS

    def _beat(self, holder: str) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            # a beat that could not be written is made up for by the next one
            with contextlib.suppress(ObliviateError), self._database.writing() as connection:
                found = self._row(connection)
                if found is None or found.holder != holder:
                    return
                self._update(connection, {"beat": found.beat + 1})

    def _row(self, connection: Connection) -> Any:
        query = select(tables.leases).where(tables.leases.c.run == self._run).with_for_update()
        return connection.execute(query).first()

    def _update(self, connection: Connection, values: dict[str, Any]) -> None:
        mine = tables.leases.c.run == self._run
        connection.execute(update(tables.leases).where(mine).values(**values))
