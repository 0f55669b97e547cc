"""IDX files, as MNIST and Fashion-MNIST are published."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch.utils.data import TensorDataset

from obliviate.errors import InvalidOption
from obliviate.options import choice, path_text, regular

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from obliviate.datasets.sources import Source

Split = Literal["train", "test"]

_FILE_PREFIX = {"train": "train", "test": "t10k"}
_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08


def idx_folder(
    folder: str | Path, split: Split = "train", *, source: Source | None = None
) -> TensorDataset:
    """Images and labels from a folder in the manner of MNIST and Fashion-MNIST.

    Args:
        folder: Holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte, each plain or with .gz.
        split: "train" or "test".
        source: What these files are and where they come from, for the message about one that is
            missing or damaged, where that is known.

    Returns:
        See `idx`.

    Raises:
        InvalidOption: A file is missing or is not what its name says.
    """
    prefix = _FILE_PREFIX[choice(split, "split", get_args(Split))]
    place = Path(path_text(folder, "the folder"))
    images, labels = (
        _plain_or_gzipped(place / f"{prefix}-{each}-ubyte", source)
        for each in ("images-idx3", "labels-idx1")
    )
    try:
        return idx(images, labels)
    except InvalidOption as error:
        if source is None:
            raise
        raise source.again(error, place) from error


def idx(images: str | Path, labels: str | Path) -> TensorDataset:
    """Grey images and their labels from a pair of IDX files, gzipped or plain.

    Source of the format: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".

    Returns:
        float32 images of shape [n, 1, height, width], scaled to 0..1, and int64 labels of shape
        [n]. The id of a record is its place in the files.

    Raises:
        InvalidOption: A file is missing, damaged, of another kind, or the counts differ.
    """
    images, labels = path_text(images, "images"), path_text(labels, "labels")
    pixels, classes = _idx_array(Path(images), 3), _idx_array(Path(labels), 1)
    if len(pixels) != len(classes):
        raise InvalidOption(
            f"{images} holds {len(pixels)} images, {labels} holds {len(classes)} labels",
            hint="give two files that belong together",
        )
    scaled = torch.from_numpy(pixels).unsqueeze(1).float().div_(255)
    return TensorDataset(scaled, torch.from_numpy(classes).long())


def _plain_or_gzipped(path: Path, source: Source | None) -> Path:
    gzipped = path.with_name(f"{path.name}.gz")
    found = next((each for each in (path, gzipped) if each.is_file()), None)
    if found is None:
        what = f"there is neither {path} nor {gzipped.name}"
        if source is not None:
            raise source.missing(what, path.parent)
        raise InvalidOption(
            what,
            hint="give the folder that holds the four IDX files, named as MNIST names them",
        )
    return found


def _idx_array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    content, header = unzipped(path), 4 + 4 * dimensions
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if content[:4] != expected:
        raise InvalidOption(
            f"{path} starts with {content[:4].hex(' ') or 'nothing'}, not {expected.hex(' ')}",
            hint=f"give an IDX file of unsigned bytes in {dimensions} dimension(s)",
        )
    # a header that is itself cut short gives a shape that the size then contradicts
    shape = tuple(np.frombuffer(content[4:header].ljust(header - 4, b"\xff"), ">u4").tolist())
    if 0 in shape:
        raise InvalidOption(
            f"{path} has the shape {list(shape)}", hint="give a file with at least one record"
        )
    size = header + math.prod(shape)
    if len(content) != size:
        what = "is truncated" if len(content) < size else "is too long"
        raise InvalidOption(
            f"{path} {what}: it has {len(content)} bytes, a shape of {list(shape)} needs {size}",
            hint="download the file again",
        )
    return np.frombuffer(bytearray(content[header:]), np.uint8).reshape(shape)


def unzipped(path: Path) -> bytes:
    """The content of a file, unpacked where it is gzipped.

    Raises:
        InvalidOption: It cannot be read, or is damaged.
    """
    # by content, not by name: browsers unpack some downloads and keep the name
    try:
        content = regular(path).read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidOption(
            f"{path} is a damaged gzip file: {error}", hint="download the file again"
        ) from error
    except OSError as error:
        raise InvalidOption(f"{path} cannot be read: {error}", hint="check the path") from error
