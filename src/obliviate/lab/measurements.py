"""Cells: what was measured on one model, kept in a file each, so that no model is made twice."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.errors import InvalidOption, RunDamaged, StorageFull
from obliviate.executors import beacons
from obliviate.text import plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

CELLS_NAME = "cells"
_LEFT = {  # by whom
    "lab": ("lab.json", "lab.csv", "gap.png", "shift.png"),
    "bench": ("bench.json", "bench.csv", "bench.html", "accuracy.png", "cost.png"),
}
OWN_FILES = frozenset({CELLS_NAME, "runs", ".lock", *_LEFT["lab"], *_LEFT["bench"]})


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What was measured on one model.

    Attributes:
        scores: Of the records of each set, by its name, one number for each record.
        accuracies: On the test records and on each probe; None where it is no classification.
        facts: How the model came to be: what the erasure says of itself.
    """

    scores: dict[str, tuple[float, ...]]
    accuracies: dict[str, float | None]
    facts: dict[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> NDArray[np.float64]:
        """The scores of a set. Shape (records,)."""
        return np.array(self.scores[name], dtype=float)


class Cells:
    """The cells of a laboratory's folder; a cell is there wholly or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / CELLS_NAME

    def __contains__(self, name: str) -> bool:
        """Whether a cell has been measured."""
        return self._path(name).exists()

    def read(self, name: str) -> Cell:
        """A cell.

        Raises:
            RunDamaged: It is missing or no cell.
        """
        path = self._path(name)
        try:
            return Cell(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunDamaged(
                f"{path} cannot be read as a cell: {error}",
                hint="delete it and call again: it is measured anew",
            ) from error

    def write(self, name: str, cell: Cell) -> None:
        """Keep a cell.

        Raises:
            StorageFull: The folder cannot be written to.
        """
        path = self._path(name)
        temporary = path.with_suffix(f".{uuid.uuid4().hex}.part")  # of this process alone
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(plain(cell), allow_nan=False), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise StorageFull(
                f"{self.folder} cannot be written to ({error.strerror})",
                hint="make room or allow writing there, then call again: it goes on",
            ) from error

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def check_folder(folder: Path) -> None:
    """See that a folder is a laboratory's, or can become one.

    Raises:
        InvalidOption: It is a file, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidOption(f"{folder} is a file", hint="give a folder that is new or empty")
    names = (path.name for path in folder.glob("*"))
    foreign = sorted(
        name for name in names if name not in OWN_FILES and not name.startswith(beacons.PREFIX)
    )
    if foreign:
        raise InvalidOption(
            f"{folder} holds other files, such as {foreign[0]}",
            hint="give a folder that is new or empty, or one of an earlier call",
        )


def leave(folder: Path, files: Mapping[str, bytes]) -> None:
    """Leave tables and pictures in a folder, by their names.

    Raises:
        StorageFull: It cannot be written to.
    """
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise StorageFull(
            f"{folder} cannot be written to ({error.strerror})",
            hint="make room or allow writing there, then call again: nothing is measured twice",
        ) from error
