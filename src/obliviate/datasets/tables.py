"""Any table with a column of people: CSV or Parquet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from torch.utils.data import TensorDataset

from obliviate.datasets.columns import columns
from obliviate.datasets.csv_files import LARGEST_FLOAT32, TargetKind
from obliviate.datasets.loaded import Loaded
from obliviate.errors import InvalidOption
from obliviate.options import choice, index_of, listed, path_text, text, whole
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from obliviate.datasets.columns import Columns

    Numbers = NDArray[np.float32]
    Coded = Mapping[str, int | Sequence[Any]]


def table(
    path: str | Path,
    *,
    target: str,
    subject: str,
    features: Sequence[str] | None = None,
    coded: Coded | None = None,
    target_kind: TargetKind = "class",
    delimiter: str = ",",
) -> Loaded:
    """A table in which a column says whose each record is.

    No constant is computed over all records: numbers are taken as they are, and how a column of
    words is coded is given. A new word of somebody's changes nobody else's record.

    Args:
        path: A CSV file in UTF-8 whose first line names the columns, or a Parquet file (*.parquet),
            which takes pyarrow. The id of a record is its place in the file.
        target: The column to predict.
        subject: The column that names the person; an empty cell is nobody's. It is no feature.
        features: The columns to learn from, in the order of the inputs; all others if None.
        coded: How columns of words become numbers, by name: a list of the words that it can hold
            becomes as many columns of zeros and ones, an int so many, to which words are hashed.
            With the target, a list gives the classes.
        target_kind: "class" for whole numbers from 0, "number" for anything to regress on.
        delimiter: Between the cells of a CSV file.

    Returns:
        float32 inputs of shape [n, columns] and targets: int64 of shape [n] for classes, float32
        of shape [n, 1] for numbers; and the subjects.

    Raises:
        InvalidOption: The file cannot be read, a column is not there, or a cell is no finite number
            and no word that was given; the message names the line.
        ExtraMissing: It is a Parquet file, and pyarrow is not installed.
    """
    choice(target_kind, "target_kind", get_args(TargetKind))
    target, subject = text(target, "target"), text(subject, "subject")
    chosen = None if features is None else _names(features)
    source = Path(path_text(path, "the table"))
    wanted = None if chosen is None else [*chosen, target, subject]
    read = columns(source, wanted, text(delimiter, "delimiter"))
    for name in (target, subject):
        if name not in read.values:
            raise InvalidOption(
                f"{source} has no column {shown(name)}",
                hint=f"its columns are: {', '.join(read.names)}",
            )
    kept = [name for name in read.names if name not in (target, subject)]
    kept = kept if chosen is None else chosen
    if not kept:
        raise InvalidOption(f"{source} has no column to learn from", hint="give features=[...]")
    codes = _codes(coded, [*kept, target])
    inputs = np.concatenate([_encoded(read, name, codes.get(name)) for name in kept], axis=1)
    targets = _targets(read, target, codes.get(target), target_kind)
    return Loaded(
        data=TensorDataset(torch.from_numpy(inputs), targets),
        subjects=[_person(value) for value in read.values[subject]],
    )


def _names(features: Sequence[str]) -> list[str]:
    hint = "give a list of columns"
    return [text(each, "features", hint) for each in listed(features, "features", hint)]


@dataclass(frozen=True)
class _Code:
    """How a word becomes a place.

    Attributes:
        width: How many places there are.
        place: Of a word; None where it has none.
        words: Those that have one, in a message.
    """

    width: int
    place: Callable[[str], int | None]
    words: str


def _codes(coded: Coded | None, used: Sequence[str]) -> dict[str, _Code]:
    codes = {}
    if not isinstance(coded, Mapping | None):
        raise InvalidOption(
            f"coded is {shown(coded)}", hint='give a mapping, such as {"town": 16, "size": ["s"]}'
        )
    for name, code in (coded or {}).items():
        if name not in used:
            raise InvalidOption(
                f"coded names {shown(name)}, which is no column that is used",
                hint=f"the columns are: {', '.join(used)}",
            )
        width = index_of(code)
        codes[name] = _listing(name, code) if width is None else _hashing(name, width)
    return codes


def _hashing(column: str, width: int) -> _Code:
    width = whole(width, f"coded[{column!r}]", least=1, hint="give a positive int, or a list")

    def place(word: str) -> int:
        hashed = blake2b(f"{column}={word}".encode(), digest_size=8).digest()
        return int.from_bytes(hashed, "little") % width

    return _Code(width, place, "any word")


def _listing(column: str, given: Any) -> _Code:
    words = [_word(each) for each in listed(given, f"coded[{column!r}]", "give a list, or an int")]
    places = {word: at for at, word in enumerate(words)}
    if len(places) != len(words) or not words:
        raise InvalidOption(
            f"coded[{column!r}] is {shown(given)}", hint="give each word that is allowed once"
        )
    return _Code(len(words), places.get, ", ".join(words))


def _word(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _person(value: Any) -> str | None:
    # a column of whole numbers in which some are missing comes as floats
    is_whole = isinstance(value, float) and value.is_integer()
    return _word(int(value) if is_whole else value) or None


def _encoded(read: Columns, name: str, code: _Code | None) -> Numbers:
    if code is None:
        return _numbers(read, name).astype(np.float32)[:, None]
    encoded = np.zeros((len(read), code.width), dtype=np.float32)
    encoded[np.arange(len(read)), _places(read, name, code)] = 1
    return encoded


def _places(read: Columns, name: str, code: _Code) -> NDArray[np.int64]:
    places = [code.place(_word(value)) for value in read.values[name]]
    if None in places:
        at = places.index(None)
        raise _odd(read, name, at, f"is none of the words that were given: {code.words}")
    return np.array(places, dtype=np.int64)


def _numbers(read: Columns, name: str) -> NDArray[np.float64]:
    values = np.array([_number(value) for value in read.values[name]])
    odd = np.flatnonzero(~(np.abs(values) <= LARGEST_FLOAT32))
    if len(odd):
        raise _odd(read, name, int(odd[0]), "is no finite number")
    return values


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _targets(read: Columns, name: str, code: _Code | None, kind: TargetKind) -> torch.Tensor:
    if code is not None:
        return torch.from_numpy(_places(read, name, code))
    numbers = _numbers(read, name)
    if kind == "number":
        return torch.from_numpy(numbers).float().unsqueeze(1)
    odd = np.flatnonzero((numbers < 0) | (numbers != np.floor(numbers)))
    if len(odd):
        raise _odd(read, name, int(odd[0]), "is no class, a whole number from 0")
    return torch.from_numpy(numbers).long()


def _odd(read: Columns, name: str, at: int, fault: str) -> InvalidOption:
    value = read.values[name][at]
    return InvalidOption(
        f"{read.path}, {read.places[at]}, column {name!r}: {shown(value)} {fault}",
        hint="mend the cell, leave the column out of `features`, or say how its words are coded: "
        f"coded={{{name!r}: [...]}}, or {{{name!r}: 16}} to hash them",
    )
