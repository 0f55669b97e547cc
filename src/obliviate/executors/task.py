"""Task: what a worker process does, whoever started it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_made: dict[str, Callable[[str], Any]] = {}  # in a worker: of the job at hand


def carry_out(key: str, source: Callable[[], Callable[[str], Any]], name: str) -> Any:
    """Carry out a task of a job.

    Args:
        key: Of the job: what carries its tasks out is made once in each process.
        source: What makes it.
        name: Of the task.
    """
    if key not in _made:
        sys.stdout = sys.stderr  # a project may print what it likes: the answer is its parent's
        _made.clear()
        _made[key] = source()
    return _made[key](name)
