"""The one clock. Durations are measured elsewhere, by a clock that does not jump."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def stamp(time: datetime | None = None) -> str:
    """A time, or the present one, as it is written down: ISO 8601, in UTC, to the second."""
    return (time or now()).astimezone(UTC).isoformat(timespec="seconds")
