"""MNIST with the people who wrote it, and Fashion-MNIST beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from obliviate.datasets.idx_files import idx_folder, unzipped
from obliviate.datasets.loaded import Loaded
from obliviate.datasets.npz_files import arrays
from obliviate.datasets.sources import MNIST, WRITERS
from obliviate.errors import InvalidOption
from obliviate.options import path_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from obliviate.datasets.idx_files import Split

_ARRAYS = "writers.npz"
_PUBLISHED = "qmnist-{}-labels-idx2-int.gz"
_COLUMNS, _WRITER = 8, 2
_HEADER = np.array([0x0C02, 0, _COLUMNS], dtype=">i4")  # 4-byte integers in two dimensions


def mnist(folder: str | Path) -> Loaded:
    """MNIST, each digit with its writer: 60,000 by 539 writers to train on.

    The folder holds MNIST's four IDX files, gzipped or plain, and beside them who wrote what: the
    files qmnist-train-labels-idx2-int.gz and qmnist-test-labels-idx2-int.gz as they are published,
    or a file writers.npz with the arrays `train` and `test`, a number for each digit.

    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits"; Yadav, Bottou 2019,
    "Cold case: the lost MNIST digits" (the writers).

    Returns:
        Images and labels as `idx` gives them, the subjects "writer-2154" and so on, and the 10,000
        test digits with theirs: other people.

    Raises:
        InvalidOption: A file is missing or damaged.
    """
    place = Path(path_text(folder, "the folder"))
    train, test = (idx_folder(place, split, source=MNIST) for split in ("train", "test"))
    return Loaded(
        data=train,
        subjects=_writers(place, "train", len(train)),
        test=test,
        test_subjects=_writers(place, "test", len(test)),
    )


def _writers(folder: Path, split: Split, count: int) -> list[str | None]:
    path = WRITERS.file(folder, [_ARRAYS, _PUBLISHED.format(split)])
    numbers = arrays(path, [split], WRITERS)[0] if path.name == _ARRAYS else _published(path)
    # the published test file goes on beyond MNIST's test digits, which come first
    if numbers.ndim != 1 or len(numbers) < count:
        raise WRITERS.damaged(path, f"has writers for {len(numbers):,} of {count:,} digits")
    return [f"writer-{number}" for number in numbers[:count].tolist()]


def _published(path: Path) -> NDArray[np.int64]:
    try:
        content = unzipped(path)
    except InvalidOption as error:
        raise WRITERS.again(error, path.parent) from error
    head = np.frombuffer(content[: _HEADER.nbytes].ljust(_HEADER.nbytes, b"\0"), ">i4")
    size = _HEADER.nbytes + int(head[1]) * 4 * _COLUMNS
    if (head[[0, 2]] != _HEADER[[0, 2]]).any() or len(content) != size:
        raise WRITERS.damaged(path, f"is no table of {_COLUMNS} columns of 4-byte integers")
    table = np.frombuffer(content[_HEADER.nbytes :], ">i4").reshape(-1, _COLUMNS)
    return cast("NDArray[np.int64]", table[:, _WRITER].astype(np.int64))
