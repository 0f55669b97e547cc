"""One writer per run at a time; any number of readers."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from obliviate.errors import RunLocked, StorageFull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_NAME = ".lock"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the run's lock. It is let go of when the process ends, however it ends.

    Raises:
        RunLocked: Another live process holds it.
        StorageFull: The folder cannot be written to.
    """
    holder = folder / ".writer"
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        holder.write_text(str(os.getpid()))
    except Timeout:
        pid = holder.read_text() if holder.exists() else "unknown"
        raise RunLocked(
            f"process {pid} is writing to {folder}",
            hint="wait for it to end, or stop it and call again: what it began will be finished",
        ) from None
    except OSError as error:
        lock.release()
        raise StorageFull(
            f"{folder} cannot be written to ({error.strerror})",
            hint="make room or allow writing there, or choose another folder",
        ) from error
    try:
        yield
    finally:
        lock.release()
