"""How often and how long something that may fail in passing is tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.5
TOTAL_SECONDS = 30.0


def retrying(
    is_passing: Callable[[Exception], bool],
    *,
    attempts: int = ATTEMPTS,
    first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    total_seconds: float = TOTAL_SECONDS,
) -> Retrying:
    """Calls a function again while it fails in passing; its last error comes out as it is.

    Args:
        is_passing: Whether the same call may succeed a moment later.
        attempts: At most so many calls.
        first_pause_seconds: Before the second call; each later pause is twice as long.
        total_seconds: No call begins later than this after the first.
    """
    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, Exception) and is_passing(error)),
        wait=wait_exponential(multiplier=first_pause_seconds),
        stop=stop_after_attempt(attempts) | stop_before_delay(total_seconds),
        reraise=True,
    )
