"""The lease: one writer per run at a time, on whatever machine.

Whoever writes holds the run's lease and lets it beat. Another one waits, and takes over when the
holder is dead: at once where that can be seen (the same machine, and no such process), else once
it has not seen the beat move for a while, by its own steady clock. So clocks that differ or jump
do no harm. A holder that was only asleep finds out at its next transaction, which is refused.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, insert, select, type_coerce, update
from sqlalchemy.exc import DatabaseError

from obliviate.errors import ObliviateError, RunLocked
from obliviate.ledger import tables
from obliviate.ledger.change import check_holder

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Connection

    from obliviate.ledger.database import Database

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 30.0
_POLL_SECONDS = 0.2
_LOOK_SECONDS = 5.0  # how long one look waits for a transaction of somebody else
_DEAD = "ZX"


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
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # a zombie is dead, though nobody has asked yet what it died of
        return None if state in _DEAD else rest[18]
    except (OSError, ValueError, IndexError):
        return None


def is_dead(process: dict[str, Any]) -> bool:
    """Whether a process is seen to be dead; it may be dead and not be seen."""
    is_here = process.get("machine") == _machine() and process.get("started") is not None
    return is_here and _started(process["pid"]) != process["started"]


def _process(found: Any) -> dict[str, Any]:
    """The process that a row names; none where the row was damaged: then silence tells."""
    with contextlib.suppress(ValueError, TypeError):
        said = json.loads(found.process)
        if isinstance(said, dict):
            return said
    return {}


class _Heart(threading.Thread):
    """Lets a lease beat for as long as it is held; while it lives, this process holds the lease."""

    def __init__(self, lease: Lease, holder: str) -> None:
        super().__init__(daemon=True)
        self.lease, self.holder, self.stopped = lease, holder, threading.Event()

    def run(self) -> None:
        """Beat until stopped, or until another process has taken the lease over."""
        while not self.stopped.wait(self.lease.beat_seconds):
            # a beat that could not be written is made up for by the next one
            with contextlib.suppress(ObliviateError):
                if not self.lease.beat(self.holder):
                    return


def _is_held_here(holder: str) -> bool:
    hearts = (each for each in threading.enumerate() if isinstance(each, _Heart))
    return any(heart.holder == holder and not heart.stopped.is_set() for heart in hearts)


class Lease:
    """The right to write to a run, held by one thread of one process.

    Attributes:
        holder: The name that it is held under; None while it is not.
        beat_seconds: How often it beats.
        silence_seconds: After how long without a beat another holder counts as dead.
    """

    def __init__(self, database: Database, run: int) -> None:
        self._database, self._run = database, run
        self.holder: str | None = None
        self.beat_seconds, self.silence_seconds = BEAT_SECONDS, SILENCE_SECONDS
        self._heart: _Heart | None = None
        self._seen: tuple[str, int] | None = None
        self._looked = self._silent_seconds = 0.0

    def try_taking(self, patience_seconds: float = _LOOK_SECONDS) -> str | None:
        """Take the lease, if it is free or its holder is dead; say who has it, if not.

        Args:
            patience_seconds: How long to wait for a transaction of another process.

        Raises:
            RunLocked: This very thread holds it already, and waiting would last for ever; or the
                patience was over.
        """
        with self._database.writing(patience_seconds=patience_seconds) as connection:
            # what whoever writes needs too: a lease is worth nothing while somebody else hangs
            # there; and the lease's own row is made by one at a time
            runs = tables.runs.c
            connection.execute(select(runs.id).where(runs.id == self._run).with_for_update())
            found = self._row(connection)
            if found is not None and found.holder is not None and not self._is_over(found):
                process = _process(found)
                if {**this_process(), **process} == this_process() and process:
                    raise RunLocked(
                        "this run is being written to by another call in this very thread",
                        hint="let that call come to its end first",
                    )
                return f"process {process.get('pid', '?')} on {process.get('host', '?')}"
            holder = uuid.uuid4().hex
            values = {"holder": holder, "process": this_process(), "beat": 0}
            if found is None:
                connection.execute(insert(tables.leases), {"run": self._run, **values})
            else:
                self._update(connection, values)
        self.holder, self._heart = holder, _Heart(self, holder)
        self._heart.start()
        return None

    def check(self) -> None:
        """See that the lease is still held, if it was ever taken.

        Raises:
            LeaseLost: Another process took it over in the meantime.
        """
        if self.holder is not None:
            with self._database.writing() as connection:
                check_holder(connection, self._run, self.holder)

    def beat(self, holder: str) -> bool:
        """Give a sign of life; say whether the lease is still held under that name."""
        with self._database.writing() as connection:
            found = self._row(connection)
            if found is None or found.holder != holder:
                return False
            self._update(connection, {"beat": int(found.beat) + 1})
        return True

    def release(self) -> None:
        """Give the lease back, if it is still held.

        Where the database cannot be reached, the row goes on naming this process: it sees for
        itself that no heart beats for it any more, and others do after a while.
        """
        holder, self.holder = self.holder, None
        if self._heart is None or holder is None:
            return
        self._heart.stopped.set()
        writing = self._database.writing(patience_seconds=_LOOK_SECONDS)
        with contextlib.suppress(ObliviateError), writing as connection:
            found = self._row(connection)
            if found is not None and found.holder == holder:
                self._update(connection, {"holder": None, "process": None})

    def held(self, *, patience_seconds: float | None) -> Generator[str, None, None]:
        """Take the lease; while another live process holds it, yield who, every so often.

        Raises:
            RunLocked: The patience was over first.
        """
        # by hand: each look is given the time that is left and each pause is yielded, which takes
        # more lines with a library for retries
        patience = float("inf") if patience_seconds is None else patience_seconds
        until = time.monotonic() + patience
        while True:
            other, error = self._look(max(until - time.monotonic(), 0.0))
            if other is None:
                return
            if time.monotonic() >= until:
                raise error or RunLocked(
                    f"{other} is writing to the run",
                    hint="wait for it to end, or stop it: what it began will be finished",
                )
            yield other
            time.sleep(_POLL_SECONDS)

    def _look(self, patience_seconds: float) -> tuple[str | None, RunLocked | None]:
        """Try to take the lease; say who kept it, and the error where that is not known."""
        try:
            return self.try_taking(min(patience_seconds, _LOOK_SECONDS)), None
        except RunLocked as error:
            if not isinstance(error.__cause__, DatabaseError):
                raise
            return "another process", error  # in a transaction that takes long

    def _is_over(self, found: Any) -> bool:
        if is_dead(_process(found)) or self._is_given_up(found):
            return True
        seen, looked = self._seen, self._looked
        self._seen, self._looked = (found.holder, found.beat), time.monotonic()
        if seen != self._seen:
            self._silent_seconds = 0.0
            return False
        # a look that had to wait, until a long transaction was over, says nothing of that time:
        # the holder could not beat in it either
        self._silent_seconds += min(self._looked - looked, 2 * _POLL_SECONDS)
        return self._silent_seconds >= self.silence_seconds

    @staticmethod
    def _is_given_up(found: Any) -> bool:
        """Whether it is held in the name of this process, which could not give it back."""
        is_ours = {**_process(found), "thread": 0} == {**this_process(), "thread": 0}
        return is_ours and not _is_held_here(found.holder)

    def _row(self, connection: Connection) -> Any:
        columns = tables.leases.c
        process = type_coerce(columns.process, String).label("process")
        query = select(columns.holder, columns.beat, process).where(columns.run == self._run)
        return connection.execute(query.with_for_update()).first()

    def _update(self, connection: Connection, values: dict[str, Any]) -> None:
        mine = tables.leases.c.run == self._run
        connection.execute(update(tables.leases).where(mine).values(**values))
