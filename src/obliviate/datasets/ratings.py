"""MovieLens: which user rated which film how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import TensorDataset

from obliviate.datasets.loaded import Loaded
from obliviate.datasets.sources import MOVIELENS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_FILES = ("ratings.csv", "u.data", "ratings.dat")
_HEADER = b"userId,movieId,rating,timestamp"
_SEPARATORS = {".csv": b",", ".data": b"\t", ".dat": b"::"}
_COLUMNS = 4
_MOST = 2**31 - 1


def movielens(place: str | Path) -> Loaded:
    """Ratings of MovieLens: who gave which film how many stars.

    Source: Harper, Konstan 2015, "The MovieLens datasets: history and context".

    Args:
        place: ratings.csv, or u.data of MovieLens 100K, or ratings.dat of 1M and 10M: user, film,
            rating, timestamp; or the folder of one.

    Returns:
        int64 inputs of shape [n, 2], the numbers of user and film as they are published (1 or
        more), and float32 ratings of shape [n, 1]; with the users as subjects ("196").

    Raises:
        InvalidOption: The file is missing or damaged; the message names the line.
    """
    path = MOVIELENS.file(place, _FILES)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise MOVIELENS.damaged(path, f"cannot be read: {error}") from error
    is_headed = bool(lines) and lines[0].strip() == _HEADER
    separator = _SEPARATORS.get(path.suffix, b",")
    first = 1 if is_headed else 0
    if len(lines) == first:
        raise MOVIELENS.damaged(path, "holds no ratings")
    pairs, stars = _read(path, lines, first, separator)
    return Loaded(
        data=TensorDataset(torch.from_numpy(pairs), torch.from_numpy(stars)),
        subjects=[str(user) for user in pairs[:, 0].tolist()],
    )


def _read(
    path: Path, lines: list[bytes], first: int, separator: bytes
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    pairs = np.empty((len(lines) - first, 2), dtype=np.int64)
    stars = np.empty((len(lines) - first, 1), dtype=np.float32)
    for at, line in enumerate(lines[first:]):
        cells = line.split(separator)
        try:
            user, film, rating = int(cells[0]), int(cells[1]), float(cells[2])
        except (IndexError, ValueError):
            user, film, rating = 0, 0, 0.0
        is_whole = len(cells) == _COLUMNS and 1 <= user <= _MOST and 1 <= film <= _MOST
        if not (is_whole and 0 <= rating <= 10):  # noqa: PLR2004
            raise MOVIELENS.damaged(
                path, f"is damaged in line {at + first + 1}: it needs user, film, rating, timestamp"
            )
        pairs[at], stars[at] = (user, film), rating
    return pairs, stars
