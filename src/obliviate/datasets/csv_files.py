"""CSV files of numbers, whose first line names the columns."""

from __future__ import annotations

import math
from csv import Error as CsvError
from csv import reader
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch.utils.data import TensorDataset

from obliviate.errors import InvalidOption
from obliviate.options import choice, listed, path_text, regular, text
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Row = tuple[int, list[str]]

TargetKind = Literal["class", "number"]

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
"""What a float32 can hold."""


def csv(
    path: str | Path,
    *,
    target: str,
    target_kind: TargetKind = "class",
    ignore: Sequence[str] = (),
    delimiter: str = ",",
) -> TensorDataset:
    """Numbers from a CSV file whose first line names the columns.

    Args:
        path: The file, UTF-8. Blank lines are skipped; the id of a record is its place among the
            others.
        target: The column to predict.
        target_kind: "class" for whole numbers from 0, "number" for anything to regress on.
        ignore: Columns to leave out, such as the one that names the person; see `csv_column`.
        delimiter: Between the cells.

    Returns:
        float32 inputs of shape [n, columns], in the order of the file, and the targets: int64 of
        shape [n] for classes, float32 of shape [n, 1] for numbers.

    Raises:
        InvalidOption: The file cannot be read, a column is not there, or a cell is no finite
            number; the message names the line.
    """
    choice(target_kind, "target_kind", get_args(TargetKind))
    path = path_text(path, "the CSV file")
    names, rows = rows_of(Path(path), text(delimiter, "delimiter"))
    at = named_column(names, text(target, "target"), path)
    ignored = listed(ignore, "ignore", hint="give a list of columns")
    dropped = {at, *(named_column(names, text(each, "ignore"), path) for each in ignored)}
    wanted = [*(column for column in range(len(names)) if column not in dropped), at]
    if len(wanted) == 1:
        raise InvalidOption(f"{path} has no column left to learn from", hint="ignore fewer columns")
    numbers = np.stack([_numbers(row, names, wanted, path) for row in rows])
    targets = torch.from_numpy(numbers[:, -1].copy())
    if target_kind == "class":
        _check_classes(numbers[:, -1], rows, target, path)
        targets = targets.long()
    else:
        targets = targets.float().unsqueeze(1)
    return TensorDataset(torch.from_numpy(numbers[:, :-1].astype(np.float32)), targets)


def csv_column(path: str | Path, name: str, *, delimiter: str = ",") -> list[str]:
    """One column of a CSV file as text, in the order of `csv`: the subject of each record, say.

    Raises:
        InvalidOption: The file cannot be read, or the column is not there.
    """
    path = path_text(path, "the CSV file")
    names, rows = rows_of(Path(path), text(delimiter, "delimiter"))
    at = named_column(names, text(name, "name"), path)
    return [cells[at] for _, cells in rows]


def rows_of(path: Path, delimiter: str) -> tuple[list[str], list[Row]]:
    """The names of the columns of a CSV file, and each row with the number of its line.

    Raises:
        InvalidOption: It cannot be read, is empty, or a row has another number of cells.
    """
    try:
        content = StringIO(regular(path).read_text(encoding="utf-8-sig"))
        lines = reader(content, delimiter=delimiter, skipinitialspace=True, strict=True)
        names = [name.strip() for name in next(lines, [])]
        rows = [(lines.line_num, cells) for cells in lines if cells]
    except (OSError, UnicodeDecodeError, CsvError, TypeError, ValueError) as error:
        raise InvalidOption(
            f"{path} cannot be read: {error}",
            hint="give a CSV file in UTF-8, and the one character between its cells as delimiter",
        ) from error
    if not rows:
        raise InvalidOption(
            f"{path} holds no records", hint="the first line names the columns, records follow"
        )
    for line, cells in rows:
        if len(cells) != len(names):
            raise InvalidOption(
                f"{path}, line {line}: {len(cells)} cells for {len(names)} columns",
                hint="mend the line, or give the delimiter that the file uses",
            )
    return names, rows


def named_column(names: Sequence[str], name: str, path: str | Path) -> int:
    """The place of a column.

    Raises:
        InvalidOption: There is none of that name, or several.
    """
    if names.count(name) != 1:
        raise InvalidOption(
            f"{path} has {names.count(name)} columns called {shown(name)}",
            hint=f"its columns are: {', '.join(names)}",
        )
    return names.index(name)


def _numbers(
    row: Row, names: Sequence[str], wanted: Sequence[int], path: str | Path
) -> NDArray[np.float64]:
    line, cells = row
    values = np.empty(len(wanted))
    for at, column in enumerate(wanted):
        try:
            values[at] = float(cells[column])
        except ValueError:
            values[at] = math.nan
        if not abs(values[at]) <= LARGEST_FLOAT32:
            raise InvalidOption(
                f"{path}, line {line}, column {names[column]!r}: {cells[column]!r} is no finite "
                "number",
                hint="fill the cell, code it as a number, or leave the column out: ignore=[...]",
            )
    return values


def _check_classes(
    values: NDArray[np.float64], rows: Sequence[Row], target: str, path: str | Path
) -> None:
    odd = np.flatnonzero((values < 0) | (values != np.floor(values)))
    if len(odd):
        raise InvalidOption(
            f"{path}, line {rows[odd[0]][0]}, column {target!r}: {values[odd[0]]:g} is no class",
            hint='classes are whole numbers from 0; to predict numbers, give target_kind="number"',
        )
