"""Wording: durations, moments and counts as tables and pages show them, values as JSON does.

Values that came from outside are worded here alone: short, and without anything that a terminal
would obey.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_KILO = 1000
_LONGEST_VALUE = 100
_KEPT = "\n\t"
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = _LONGEST_VALUE

READS_MORE = (
    'not trained on, that is: the model reads more than its batch (reads="more"), and "exact" does '
    "not cover what it reads of the erased records beside it"
)
"""What has to be said wherever something is called exact, where a recipe declares that."""


def duration(seconds: float) -> str:
    """Seconds in words that fit their size."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.1f} min"
    if seconds < 2 * _DAY:
        return f"{seconds / _HOUR:.1f} h"
    return f"{seconds / _DAY:.1f} days"


def milliseconds(seconds: float) -> str:
    """Short times, exactly enough; others like all durations."""
    return f"{_KILO * seconds:.3g} ms" if seconds < 1 else duration(seconds)


def moment(text: str | None) -> str:
    """A time as the ledger keeps it, for reading."""
    return text.replace("T", " ").replace("+00:00", " UTC") if text else "–"


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it is not one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(share: float | None) -> str:
    """A share of one."""
    return "not measured" if share is None else f"{100 * share:.2f} %"


def size(size_bytes: float | None) -> str:
    """Bytes in decimal units that fit their number."""
    if size_bytes is None:
        return "not known"
    units = ("B", "kB", "MB", "GB", "TB")
    power = 0
    while size_bytes >= _KILO and power < len(units) - 1:
        size_bytes, power = size_bytes / _KILO, power + 1
    return f"{size_bytes:.4g} {units[power]}"


def decimal(number: float | None) -> str:
    """A measured number."""
    return "not measured" if number is None else f"{number:.3f}"


def plain(value: Any) -> Any:
    """A value in the words of JSON; numbers that JSON lacks become null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def printable(text: str) -> str:
    """A text without what a terminal obeys, or cannot write: such characters come as escapes."""
    if text.isprintable():
        return text
    return "".join(
        each
        if each.isprintable() or each in _KEPT
        else each.encode("unicode_escape", errors="surrogatepass").decode()
        for each in text
    )


def shortened(text: str, most: int) -> str:
    """A text, or its two ends and how long it is."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}... ({len(text):,} characters) ...{text[-half:]}"


def shown(value: Any) -> str:
    """A value in a message, as Python writes it; the ends of a long one."""
    try:
        said = _BRIEF.repr(value)
    except Exception:  # an int of very many digits, or an object that cannot say what it is
        said = f"of type {type(value).__name__}, and cannot be written down"
    return printable(shortened(" ".join(said.split()), 2 * _LONGEST_VALUE))


def measured(values: Mapping[str, float]) -> str:
    """Measured numbers, by name."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
