"""Beacons: files by which a machine sees that a folder is the one that another one means."""

from __future__ import annotations

import contextlib
import socket
import uuid
from typing import TYPE_CHECKING

from obliviate.disk.paths import naming
from obliviate.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

PREFIX = ".beacon-"


@contextlib.contextmanager
def lit(folders: Iterable[Path]) -> Iterator[tuple[Path, ...]]:
    """Leave a file in each folder, for a while.

    Raises:
        StorageFull, StorageFailed: A folder cannot be written to.
    """
    name = f"{PREFIX}{uuid.uuid4().hex}"
    beacons = tuple(folder / name for folder in folders)
    try:
        for beacon in beacons:
            with naming(beacon.parent):
                beacon.touch()
        yield beacons
    finally:
        for beacon in beacons:
            with contextlib.suppress(OSError):
                beacon.unlink(missing_ok=True)


def check_seen(beacons: Iterable[Path]) -> None:
    """See that the folders of this machine are those in which beacons were lit.

    Raises:
        InvalidOption: One is not there, or is another one of the same name.
    """
    for beacon in beacons:
        if not beacon.exists():
            raise InvalidOption(
                f"{socket.gethostname()}, a node of the cluster, does not see {beacon.parent} as "
                "it is here",
                hint="put the folder, the project and its data on a file system that all nodes "
                "share, at the same path",
            )
