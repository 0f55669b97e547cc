"""One process at a time makes a run in a folder; once there is a run, its lease takes over."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from obliviate.disk.paths import named, naming
from obliviate.errors import RunLocked

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_NAME = ".lock"


@contextlib.contextmanager
def alone(folder: Path, *, is_patient: bool = True) -> Iterator[None]:
    """Be the only process that makes something in a folder; it is made if need be.

    Args:
        folder: Where.
        is_patient: Wait until another process is done.

    The system lets go of the lock when a process ends, however it ends.

    Raises:
        RunLocked: Another process is at it, and this one would not wait.
        StorageFull, StorageFailed: The folder cannot be written to.
    """
    with naming(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _holding(FileLock(folder / LOCK_NAME, mode=0o600), folder, is_patient=is_patient):
        yield


@contextlib.contextmanager
def alone_at(path: Path, *, is_patient: bool = True) -> Iterator[None]:
    """Be the only process that puts something at a path; the lock beside it goes with the holder.

    Raises:
        RunLocked: Another process is at it, and this one would not wait.
        StorageFull, StorageFailed: The folder that it is in cannot be written to.
    """
    lock = FileLock(path.with_name(f".{path.name}{LOCK_NAME}"), mode=0o600)
    with naming(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _holding(lock, path, is_patient=is_patient):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # whoever waits sees that it is gone, and tries anew
                Path(lock.lock_file).unlink(missing_ok=True)


@contextlib.contextmanager
def _holding(lock: FileLock, folder: Path, *, is_patient: bool) -> Iterator[None]:
    try:
        lock.acquire(timeout=-1 if is_patient else 0)
    except Timeout:
        raise RunLocked(
            f"another process is at work in {folder}",
            hint="wait for it to end, or stop it and call again",
        ) from None
    except OSError as error:
        lock.release()
        raise named(error, folder) from error
    try:
        yield
    finally:
        lock.release()
