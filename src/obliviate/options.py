"""Options: what comes in at the door is made plain Python, or refused by name.

Sweeps give numpy's numbers, configuration files give text, notebooks give tensors. What is stored
or compared later is an `int`, a finite `float`, a `bool` or a `str`, and nothing that only looks
like one: a database would keep `numpy.int64(8)` as eight bytes.
"""

from __future__ import annotations

import contextlib
import errno
import math
import operator
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate.errors import InvalidOption
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_WHOLE = 2**31 - 1
"""What any database's integer can hold."""

_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, as file systems have it


def whole(value: Any, name: str, *, least: int = 0, most: int = MOST_WHOLE, hint: str = "") -> int:
    """A whole number, of Python, numpy or a tensor without dimensions.

    Args:
        value: What was given.
        name: What it is called, for the message.
        least: The smallest allowed.
        most: The largest allowed.
        hint: What to give, where there is more to say than the limits.

    Raises:
        InvalidOption: It is none, or out of bounds. Flags and floats are none.
    """
    number = index_of(value)
    limits = f"{least:,} or more" if most >= MOST_WHOLE else f"between {least:,} and {most:,}"
    if number is None or not least <= number <= most:
        said = f"; it must be an int, {limits}" if number is None else f"; it must be {limits}"
        hint = hint or f"give {name} as an int"
        raise InvalidOption(f"{name} is {shown(value)}{said}", hint=hint)
    return number


def index_of(value: Any) -> int | None:
    """A whole number as Python has it; None where it is none. Flags are none."""
    if _is_flag(value) or _has_dimensions(value):
        return None
    with contextlib.suppress(Exception):  # whatever a foreign object does there
        return operator.index(value)
    return None


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def _has_dimensions(value: Any) -> bool:
    return bool(getattr(value, "ndim", False))


def real(
    value: Any,
    name: str,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    hint: str = "",
) -> float:
    """A finite number, of Python, numpy or a tensor without dimensions.

    Args:
        value: What was given.
        name: What it is called, for the message.
        above: It has to be larger.
        least: The smallest allowed.
        most: The largest allowed.
        hint: What to give.

    Raises:
        InvalidOption: It is none, or out of bounds. Flags and text are none.
    """
    number = _float(value)
    if not (math.isfinite(number) and number > above and least <= number <= most):
        said = _limits(above, least, most)
        raise InvalidOption(
            f"{name} is {shown(value)}; it must be {said}", hint=hint or f"give {name} as a float"
        )
    return number


def _float(value: Any) -> float:
    is_text = isinstance(value, str | bytes | bytearray)
    if not (is_text or _is_flag(value) or _has_dimensions(value)):
        with contextlib.suppress(Exception):  # whatever a foreign object does there
            return float(value)
    return math.nan


def _limits(above: float, least: float, most: float) -> str:
    said = "a finite number"
    if above > -math.inf:
        said += f" above {above:g}"
    if least > -math.inf:
        said += f", {least:g} or more"
    return said + (f", at most {most:g}" if most < math.inf else "")


def flag(value: Any, name: str) -> bool:
    """True or False; numpy's too.

    Raises:
        InvalidOption: It is neither.
    """
    if _is_flag(value) and not _has_dimensions(value):
        return bool(value)
    raise InvalidOption(f"{name} is {shown(value)}", hint="give True or False")


def choice(value: Any, name: str, allowed: Sequence[str], hint: str = "") -> str:
    """One of a few words.

    Raises:
        InvalidOption: It is none of them.
    """
    if isinstance(value, str) and value in allowed:
        return str(value)
    words = " or ".join(f'"{each}"' for each in allowed)
    raise InvalidOption(f"{name} is {shown(value)}", hint=hint or f"give {words}")


def text(value: Any, name: str, hint: str = "") -> str:
    """A text, as plain `str`.

    Raises:
        InvalidOption: It is none.
    """
    if isinstance(value, str):
        return str.__str__(value)
    raise InvalidOption(f"{name} is {shown(value)}; it must be a str", hint=hint or "give a text")


def path_text(value: Any, name: str) -> str:
    """The text of a path that a file system can have; ~ is the home folder.

    Raises:
        InvalidOption: It is no `str` or `Path`, it is empty, or no file can be called so.
    """
    hint = "give the path of a file or a folder, as a str or a pathlib.Path"
    try:
        said = os.fspath(value)
    except TypeError:
        said = b""
    if not isinstance(said, str):
        raise InvalidOption(f"{name} is {shown(value)}, no path", hint=hint)
    if not said.strip():
        raise InvalidOption(f"{name} is empty", hint=hint)
    fault = _path_fault(said)
    if fault:
        raise InvalidOption(f"{name} {shown(said)} {fault}", hint="choose another name")
    with contextlib.suppress(RuntimeError):  # a user who has no home
        return str(Path(said).expanduser())
    return said


def _path_fault(said: str) -> str:
    if "\0" in said:
        return "holds a zero character, which no file's name can"
    try:
        encoded = os.fsencode(said)
    except UnicodeEncodeError:
        return "holds half a character, which no file's name can"
    if len(encoded) > _LONGEST_PATH:
        return f"is longer than the {_LONGEST_PATH} bytes that a path can have"
    if any(len(each) > _LONGEST_NAME for each in encoded.split(os.fsencode(os.sep))):
        return f"holds a name of more than {_LONGEST_NAME} bytes, which no file can have"
    return ""


def regular(path: Path) -> Path:
    """A path that can be read to its end: what is no file has none, and waits for ever.

    Raises:
        OSError: It is a folder, a pipe or a device, or it is not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return path


def listed(values: Any, name: str, hint: str) -> list[Any]:
    """The values of a list, a tuple, an array, a set or an iterator.

    Raises:
        InvalidOption: It is none of them: a single value, a text or a mapping.
    """
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | bytearray | Mapping):
        with contextlib.suppress(TypeError):  # an array or a tensor without dimensions
            return list(values)
    raise InvalidOption(f"{name} is {shown(values)}", hint=hint)


@contextlib.contextmanager
def noted(faults: list[str]) -> Iterator[None]:
    """Add what is refused to a list of faults instead, where all are to be told at once."""
    try:
        yield
    except InvalidOption as error:
        faults.append(f"{error.message} ({error.hint})")
