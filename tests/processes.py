"""Processes of a group that are killed together, in the middle of what they measure."""

import os
import signal
import time

from tests.prepared import PROCESSES

PATIENCE_SECONDS = 300


def kill_midway(measure, folder, *, cells):
    """Kill a call that measures into a folder, once it has left so many cells there.

    Args:
        measure: Called with the folder, by a process of its own, which makes itself a group.
        folder: Where the cells are.
        cells: How many there have to be.

    Returns:
        When each cell that is left was written.
    """
    place, patience = folder / "cells", time.monotonic() + PATIENCE_SECONDS
    child = PROCESSES.Process(target=measure, args=(folder,))
    child.start()
    while len(list(place.glob("*.json"))) < cells:
        assert time.monotonic() < patience
        assert child.is_alive()
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    while _are_alive(child.pid):  # workers end by themselves
        assert time.monotonic() < patience
        time.sleep(0.05)
    return written(folder)


def written(folder):
    """When each cell of a folder was written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("*.json")}


def _are_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
