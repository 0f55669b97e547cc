"""IDX files that tests write themselves: an independent second reading of the format."""

from __future__ import annotations

import gzip
import struct
from typing import TYPE_CHECKING

import numpy as np
from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from pathlib import Path


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.astype("u1").tobytes()


def write_digits(folder: Path, train: int = 400, test: int = 60) -> Path:
    """A folder named as MNIST names its files, with scikit-learn's digits enlarged to 28x28."""
    folder.mkdir(parents=True)
    digits = load_digits()
    images = np.pad(np.kron(digits.images * 15, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    for name, part in (("train", slice(train)), ("t10k", slice(train, train + test))):
        for kind, array in (("images-idx3", images), ("labels-idx1", digits.target)):
            content = gzip.compress(idx_bytes(array[part]))
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(content)
    return folder
