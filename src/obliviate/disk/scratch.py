"""A folder for a chain that is trained to compare with, and is not to outlive the comparison.

It holds states of people whom no later erasure would reach there. So it goes when the comparison
ends, however it ends; and what a process left that was killed in the middle, the next one removes.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from obliviate.disk.paths import naming

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "obliviate-"
_NAME = re.compile(rf"{_PREFIX}[0-9a-f]{{32}}")
_PRIVATE = 0o700


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder among the system's temporary ones, that nobody else can read.

    Raises:
        StorageFull, StorageFailed: It cannot be made.
    """
    place = Path(tempfile.gettempdir())
    with naming(place):
        _remove_left(place)
        folder = place / f"{_PREFIX}{uuid.uuid4().hex}"
        lock = _lock_of(folder)  # held before there is a folder: who sees one, sees whose it is
        lock.acquire(timeout=0)
        try:
            folder.mkdir(mode=_PRIVATE)
        except BaseException:
            _let_go(lock)
            raise
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _let_go(lock)


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f"{folder.name}.lock"))


def _let_go(lock: FileLock) -> None:
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _remove_left(place: Path) -> None:
    """Remove the folders of processes that were killed: the system let go of their locks."""
    for folder in place.glob(f"{_PREFIX}*"):
        if not _NAME.fullmatch(folder.name) or folder.is_symlink():
            continue
        lock = _lock_of(folder)
        with contextlib.suppress(Timeout, OSError):  # it is at work, or another user's
            lock.acquire(timeout=0)
            shutil.rmtree(folder, ignore_errors=True)
            _let_go(lock)
