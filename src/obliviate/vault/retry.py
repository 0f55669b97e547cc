"""How often and how long something that may fail in passing is tried again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.5
TOTAL_SECONDS = 30.0

_GROWTH = 2
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Limits on trying again.

    Attributes:
        attempts: At most so many calls.
        first_pause_seconds: Before the second call; each later pause is twice as long.
        total_seconds: No call begins later than this after the first.
    """

    attempts: int = ATTEMPTS
    first_pause_seconds: float = FIRST_PAUSE_SECONDS
    total_seconds: float = TOTAL_SECONDS

    def call(self, action: Callable[[], _T], is_passing: Callable[[Exception], bool]) -> _T:
        """What an action returns, tried again while it fails in passing; its last error else."""
        began, pause, left = time.monotonic(), self.first_pause_seconds, self.attempts
        while True:
            left -= 1
            try:
                return action()
            except Exception as error:
                would_begin = time.monotonic() - began + pause
                if left <= 0 or would_begin > self.total_seconds or not is_passing(error):
                    raise
            time.sleep(pause)
            pause *= _GROWTH
