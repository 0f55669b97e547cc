"""Parquet files of pictures that tests write themselves, as the Hugging Face hub has them."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from pathlib import Path

COLOURS = np.random.default_rng(0).integers(0, 256, (10, 3))


def png(ink: np.ndarray, label: int) -> bytes:
    """A digit of 8x8 as a picture of 32x32, in the colour of its class."""
    pixels = np.kron(ink / 16, np.ones((4, 4)))[:, :, None] * COLOURS[label]
    file = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_pictures(folder: Path, train: int = 150, test: int = 50) -> Path:
    """A folder with scikit-learn's digits as coloured pictures."""
    folder.mkdir(parents=True)
    digits = load_digits()
    for name, part in (("train", slice(train)), ("test", slice(train, train + test))):
        labels = digits.target[part].tolist()
        pictures = [
            {"bytes": png(ink, label), "path": f"{at}.png"}
            for at, (ink, label) in enumerate(zip(digits.images[part], labels, strict=True))
        ]
        table = pa.table({"img": pictures, "label": pa.array(labels, pa.int64())})
        parquet.write_table(table, folder / f"{name}-00000-of-00001.parquet")
    return folder
