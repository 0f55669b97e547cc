"""Wording: durations, moments and counts, as tables and pages show them."""

from __future__ import annotations

_MINUTE, _HOUR = 60, 3600


def duration(seconds: float) -> str:
    """Seconds in words that fit their size."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.1f} min"
    return f"{seconds / _HOUR:.1f} h"


def moment(text: str | None) -> str:
    """A time as the ledger keeps it, for reading."""
    return text.replace("T", " ").replace("+00:00", " UTC") if text else "–"


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it is not one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(share: float | None) -> str:
    """A share of one."""
    return "not measured" if share is None else f"{100 * share:.2f} %"
