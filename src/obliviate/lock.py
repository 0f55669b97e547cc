"""One process at a time makes a run in a folder; once there is a run, its lease takes over."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from filelock import FileLock

from obliviate.errors import StorageFull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_NAME = ".lock"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait to be the only process that makes something in a folder; it is made if need be.

    The system lets go of the lock when a process ends, however it ends.

    Raises:
        StorageFull: The folder cannot be written to.
    """
    lock = FileLock(folder / LOCK_NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
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
