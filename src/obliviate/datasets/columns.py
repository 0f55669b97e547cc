"""Columns of a table, by name, from a CSV or a Parquet file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from obliviate.datasets.csv_files import named_column, rows_of
from obliviate.datasets.sources import library
from obliviate.errors import InvalidOption
from obliviate.options import regular

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Columns:
    """Some columns of a table.

    Attributes:
        path: Of the file.
        names: Of all its columns, in their order.
        values: Of the columns that were read, by name: text from a CSV file, what it is from a
            Parquet file.
        places: Where each record is, for messages: "line 3".
    """

    path: Path
    names: tuple[str, ...]
    values: dict[str, list[Any]]
    places: Sequence[str]

    def __len__(self) -> int:
        return len(self.places)


def columns(path: Path, wanted: Sequence[str] | None, delimiter: str = ",") -> Columns:
    """Read columns of a file: CSV with the names in its first line, or Parquet.

    A Parquet file is read by its row groups; what is not wanted of it is not read.

    Args:
        path: The file; what ends in .parquet is Parquet.
        wanted: The names; all if None.
        delimiter: Between the cells of a CSV file.

    Raises:
        InvalidOption: The file cannot be read, or a column is not there, once.
        ExtraMissing: It is a Parquet file, and pyarrow is not installed.
    """
    return _parquet(path, wanted) if path.suffix in _PARQUET else _csv(path, wanted, delimiter)


def _csv(path: Path, wanted: Sequence[str] | None, delimiter: str) -> Columns:
    names, rows = rows_of(path, delimiter)
    values = {}
    for name in names if wanted is None else wanted:
        at = named_column(names, name, path)
        values[name] = [cells[at] for _, cells in rows]
    return Columns(path, tuple(names), values, [f"line {line}" for line, _ in rows])


def _parquet(path: Path, wanted: Sequence[str] | None) -> Columns:
    parquet = library("pyarrow.parquet", f"{path}")
    arrow = library("pyarrow", f"{path}")
    try:
        with parquet.ParquetFile(regular(path), memory_map=True) as file:
            names = tuple(file.schema_arrow.names)
            for name in wanted or ():
                named_column(names, name, path)
            taken = list(dict.fromkeys(names if wanted is None else wanted))
            values: dict[str, list[Any]] = {name: [] for name in taken}
            for batch in file.iter_batches(columns=taken, use_threads=False):
                for name in taken:
                    values[name] += batch.column(name).to_pylist()
    except (OSError, arrow.ArrowException) as error:
        raise InvalidOption(
            f"{path} cannot be read: {error}", hint="give a Parquet file that is whole"
        ) from error
    count = len(next(iter(values.values()), []))
    if not count:
        raise InvalidOption(f"{path} holds no records", hint="give a file with at least one")
    return Columns(path, names, values, [f"row {number}" for number in range(1, count + 1)])
