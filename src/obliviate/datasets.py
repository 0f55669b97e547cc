"""Ready datasets: IDX files, CSV files, scikit-learn's digits, and made-up purchase records.

Each comes as a `TensorDataset`, which is trained on by indexing, without a `DataLoader`. Nothing
here computes a constant over all records (a mean, a vocabulary): such a constant would go on
remembering a record after it was erased.
"""

from __future__ import annotations

import gzip
import math
import zlib
from csv import Error as CsvError
from csv import reader
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, Subset, TensorDataset

from obliviate.errors import InvalidOption
from obliviate.options import choice, listed, path_text, real, regular, text, whole
from obliviate.recipe.deal import groups_of, key, keyed_hash
from obliviate.recipe.subjects import Subjects
from obliviate.text import counted, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from obliviate.recipe.subjects import Given, GivenReference

    Row = tuple[int, list[str]]

Split = Literal["train", "test"]
TargetKind = Literal["class", "number"]

_FILE_PREFIX = {"train": "train", "test": "t10k"}
_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08
_HELD_OUT_DIGITS = 297
_DIGIT_INK = 16.0
# weak enough that a linear model memorises 25,000 records wholly but mistakes some new ones:
# without such a gap there would be no memory of a record to look for
_TASTE = 0.5
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


# IDX files


def idx_folder(folder: str | Path, split: Split = "train") -> TensorDataset:
    """Images and labels from a folder in the manner of MNIST and Fashion-MNIST.

    Args:
        folder: Holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte, each plain or with .gz.
        split: "train" or "test".

    Returns:
        See `idx`.

    Raises:
        InvalidOption: A file is missing or is not what its name says.
    """
    prefix = _FILE_PREFIX[choice(split, "split", get_args(Split))]
    place = Path(path_text(folder, "the folder"))
    return idx(
        _plain_or_gzipped(place / f"{prefix}-images-idx3-ubyte"),
        _plain_or_gzipped(place / f"{prefix}-labels-idx1-ubyte"),
    )


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


def _plain_or_gzipped(path: Path) -> Path:
    gzipped = path.with_name(f"{path.name}.gz")
    found = next((each for each in (path, gzipped) if each.is_file()), None)
    if found is None:
        raise InvalidOption(
            f"there is neither {path} nor {gzipped.name}",
            hint="give the folder that holds the four IDX files, named as MNIST names them",
        )
    return found


def _idx_array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    content, header = _unzipped(path), 4 + 4 * dimensions
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


def _unzipped(path: Path) -> bytes:
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


# Embedded and made-up data


def digits() -> tuple[TensorDataset, TensorDataset]:
    """The 1,797 handwritten digits that come with scikit-learn: no download.

    Source: Alpaydin, Kaynak 1998, "Optical recognition of handwritten digits", UCI.

    Returns:
        1,500 records to train on and 297 held out, always the same: float32 images of shape
        [n, 1, 8, 8], scaled to 0..1, and int64 labels.
    """
    embedded = load_digits()
    images = torch.from_numpy(embedded.images).float().div_(_DIGIT_INK).unsqueeze(1)
    labels = torch.from_numpy(embedded.target).long()
    # our own hash rather than a library's shuffle, which may change with its version
    order = np.argsort(keyed_hash(np.arange(len(labels), dtype=np.int64), 0), kind="stable")
    held_out = torch.from_numpy(np.sort(order[:_HELD_OUT_DIGITS]))
    training = torch.from_numpy(np.sort(order[_HELD_OUT_DIGITS:]))
    return (
        TensorDataset(images[training], labels[training]),
        TensorDataset(images[held_out], labels[held_out]),
    )


def held_out(
    data: Dataset[Any], subjects: Given | None = None, *, share: float = 0.05, seed: int = 0
) -> tuple[Dataset[Any], list[Any] | None, GivenReference]:
    """Set records aside that are never trained on, to serve as references.

    Who is set aside depends on a keyed hash: with a longer dataset, whose first records are the
    same, the same of them are. All records of a person are on one side; one that belongs to several
    goes with the first named.

    Args:
        data: Map-style.
        subjects: Whose each record is; see `fit`.
        share: How much to set aside, of people where there are some; above 0 and below 1.
        seed: Of the hash.

    Returns:
        The records to train on, whose they are (None without subjects), and the references, with
        whose they are: what `fit` takes for `reference`.

    Raises:
        InvalidOption: One side would be empty, or an argument is none of the kind.
    """
    share = real(share, "share", above=0, hint="a part of the records, such as 0.05")
    count = len(data)  # type: ignore[arg-type]
    groups = np.arange(count, dtype=np.int64)
    people = None if subjects is None else list(subjects)
    if people is not None:
        groups = groups_of(Subjects.of(people, count))
    is_apart = keyed_hash(groups, key(seed, "held out")) / 2.0**64 < share
    if is_apart.all() or not is_apart.any():
        raise InvalidOption(
            f"a share of {share:g} of {counted(count, 'record')} leaves nobody on one side",
            hint="give another share, above 0 and below 1",
        )
    kept, apart = (np.flatnonzero(each) for each in (~is_apart, is_apart))
    if people is None:
        return _part(data, kept), None, _part(data, apart)
    whose, theirs = ([people[at] for at in some.tolist()] for some in (kept, apart))
    return _part(data, kept), whose, (_part(data, apart), theirs)


def _part(data: Dataset[Any], ids: NDArray[np.int64]) -> Dataset[Any]:
    if type(data) is TensorDataset:  # which is read by indexing
        return TensorDataset(*(each[torch.from_numpy(ids)] for each in data.tensors))
    return Subset(data, ids.tolist())


def synthetic_purchase(
    records: int, *, features: int = 600, classes: int = 100, seed: int = 0
) -> TensorDataset:
    """Synthetic records of the shape of Purchase-100: who bought which of many products.

    Nothing in them is real. Each class of customers has a taste: a chance of buying each product,
    which is the product's own popularity bent by the class. A record draws its class, then its
    purchases, independently.

    Args:
        records: How many customers.
        features: How many products.
        classes: How many kinds of customers.
        seed: The same seed gives the same records.

    Returns:
        float32 zeros and ones of shape [records, features], and int64 classes.

    Raises:
        InvalidOption: A number is not a positive int.
    """
    hint = "give an int of 1 or more"
    records, features, classes = (
        whole(value, name, least=1, hint=hint)
        for name, value in (("records", records), ("features", features), ("classes", classes))
    )
    seed = whole(seed, "seed", hint="give 0 or a positive int")
    generator = np.random.default_rng(seed)
    popularity = generator.normal(-1.5, 1.0, features)
    taste = popularity + generator.normal(0.0, _TASTE, (classes, features))
    chances = (1 / (1 + np.exp(-taste))).astype(np.float32)
    kinds = generator.integers(classes, size=records)
    bought = np.empty((records, features), dtype=np.float32)
    for kind in range(classes):
        members = np.flatnonzero(kinds == kind)
        draws = generator.random((len(members), features), dtype=np.float32)
        bought[members] = draws < chances[kind]
    return TensorDataset(torch.from_numpy(bought), torch.from_numpy(kinds))


# CSV files


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
    names, rows = _table(Path(path), text(delimiter, "delimiter"))
    at = _position(names, text(target, "target"), path)
    ignored = listed(ignore, "ignore", hint="give a list of columns")
    dropped = {at, *(_position(names, text(each, "ignore"), path) for each in ignored)}
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
    names, rows = _table(Path(path), text(delimiter, "delimiter"))
    at = _position(names, text(name, "name"), path)
    return [cells[at] for _, cells in rows]


def _table(path: Path, delimiter: str) -> tuple[list[str], list[Row]]:
    """The names of the columns, and each row with the number of its line."""
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


def _position(names: Sequence[str], name: str, path: str | Path) -> int:
    if names.count(name) != 1:
        raise InvalidOption(
            f"{path} has {names.count(name)} columns called {shown(name)}",
            hint=f"its first line names the columns: {', '.join(names)}",
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
        if not abs(values[at]) <= _LARGEST_FLOAT32:
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
