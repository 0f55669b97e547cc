"""Files of pictures with their labels: in folders of classes, or as Hugging Face stores them."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from obliviate.datasets.sources import library
from obliviate.errors import InvalidOption
from obliviate.options import path_text
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_IMAGES = ("image", "img")
_LABELS = ("label", "labels", "fine_label")
_PARQUET = "*.parquet"
_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_WHAT = "pictures of Hugging Face datasets"


class SplitMissing(InvalidOption):
    """A folder has no pictures of a split."""


class ImageFiles(Protocol):
    """Pictures that are decoded later.

    Attributes:
        labels: Shape [n].
        place: Where they are, for messages.
    """

    labels: NDArray[np.int64]
    place: str

    def content(self, record: int) -> bytes:
        """The bytes of a picture's file."""
        ...

    def identity(self) -> str:
        """What is another one where the files are others."""
        ...


class FolderFiles:
    """Pictures in a folder for each class, read where they lie.

    The classes are numbered in the order of their folders' names, the records in the order of
    classes and of names.
    """

    def __init__(self, folder: Path, split: str) -> None:
        listed = folder.iterdir() if folder.is_dir() else ()
        classes = sorted(each for each in listed if each.is_dir())
        found = [
            (number, path)
            for number, each in enumerate(classes)
            for path in sorted(each.iterdir())
            if path.suffix.lower() in _ENDINGS
        ]
        if not found:
            raise SplitMissing(
                f"there is no file {split}*.parquet and no folder of pictures for each class in "
                f"{folder}",
                hint=f"give a folder with {split}-*.parquet, or with {split}/CLASS/PICTURE.jpg",
            )
        self.labels = np.array([number for number, _ in found], dtype=np.int64)
        self.place = str(folder)
        self._paths = [path for _, path in found]

    def content(self, record: int) -> bytes:
        """The bytes of a picture's file."""
        return self._paths[record].read_bytes()

    def identity(self) -> str:
        """The paths, sizes and times of all files."""
        stats = ((path, path.stat()) for path in self._paths)
        return repr([(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats])


class ArrowFiles:
    """Pictures in a Hugging Face dataset, whose Arrow files are memory-mapped."""

    def __init__(self, rows: Any, place: str, image: str | None, label: str | None) -> None:
        features = rows.features
        kind = library("datasets", _WHAT).Image
        self._image = _column(features, image, _IMAGES, place, kind)
        named = _column(features, label, _LABELS, place)
        if named == self._image:
            raise _no_classes(named, place)
        chosen = rows.select_columns([self._image, named])
        # as bytes: what decodes them here costs a tenth of what the library does around it
        self._rows = chosen.cast_column(self._image, kind(decode=False))
        self.labels = _whole_numbers(self._rows.data.column(named), named, place)
        self._pictures = self._rows.data.column(self._image)
        self.place = place

    def content(self, record: int) -> bytes:
        """The bytes of a picture's file."""
        picture = self._pictures[record].as_py()
        stored = picture["bytes"]
        return bytes(stored) if stored is not None else Path(picture["path"]).read_bytes()

    def identity(self) -> str:
        """The files that are mapped, by names that the library makes of what they were made of."""
        names = [each["filename"] for each in self._rows.cache_files]
        return repr([(name, Path(name).stat().st_size) for name in names] or self._rows.data.nbytes)


def _column(
    features: Any, given: str | None, usual: Sequence[str], place: str, kind: Any = None
) -> str:
    if given is None:
        given = next((name for name in usual if name in features), None)
    if given is None and kind is not None:
        given = next((name for name in features if isinstance(features[name], kind)), None)
    if given in features:
        return str(given)
    what = "picture" if kind is not None else "label"
    raise InvalidOption(
        f"{place} has no column of a {what}" + (f" {shown(given)}" if given else ""),
        hint=f"its columns are: {', '.join(features)}; say which: images(..., "
        f"{'image' if kind is not None else 'label'}=...)",
    )


def _whole_numbers(column: Any, name: str, place: str) -> NDArray[np.int64]:
    labels = np.asarray(column.to_numpy())
    if labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise _no_classes(name, place)
    return labels.astype(np.int64)


def _no_classes(name: str, place: str) -> InvalidOption:
    return InvalidOption(
        f"column {name!r} of {place} holds something else than classes, whole numbers from 0",
        hint="give another column, or a split whose labels are published",
    )


def image_files(
    source: Any, *, split: str, image: str | None, label: str | None, cache: Path | None
) -> ImageFiles:
    """The pictures of a source; see `images`.

    Raises:
        InvalidOption: There are none.
        ExtraMissing: A library is not installed.
    """
    if not isinstance(source, str | Path):
        if not isinstance(source, library("datasets", _WHAT).Dataset):
            raise InvalidOption(
                f"source is {shown(source)}",
                hint="give a folder, a dataset's name on the hub, or one split of a Hugging Face "
                "dataset",
            )
        return ArrowFiles(source, "the dataset", image, label)
    folder = Path(path_text(source, "source"))
    if not folder.is_dir() and isinstance(source, Path):
        raise InvalidOption(f"there is no folder {folder}", hint="check the path")
    if not folder.is_dir():
        return ArrowFiles(_from_hub(str(source), split, cache), str(source), image, label)
    paths = [
        path
        for path in sorted(folder.rglob(_PARQUET))
        if path.name.startswith(split) or path.parent.name == split
    ]
    if not paths:
        is_whole = split == "train" and not (folder / split).is_dir()  # classes, and no splits
        return FolderFiles(folder if is_whole else folder / split, split)
    return ArrowFiles(_from_parquet(paths, cache), f"{folder} ({split})", image, label)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _from_parquet(paths: Sequence[Path], cache: Path | None) -> Any:
    hugging = library("datasets", _WHAT)
    arrow = library("pyarrow", _WHAT)
    try:
        return hugging.Dataset.from_parquet([str(path) for path in paths], cache_dir=_text(cache))
    except (OSError, ValueError, arrow.ArrowException, hugging.exceptions.DatasetsError) as error:
        damaged = next((path for path in paths if not _has_footer(path)), paths[0].parent)
        raise InvalidOption(
            f"{damaged} cannot be read as Parquet: {error.__cause__ or error}",
            hint="get it again",
        ) from error


def _has_footer(path: Path) -> bool:
    """Whether a Parquet file ends as it should: one that was cut short does not."""
    try:
        library("pyarrow.parquet", _WHAT).read_metadata(path)
    except (OSError, ValueError):
        return False
    return True


def _from_hub(name: str, split: str, cache: Path | None) -> Any:
    hugging = library("datasets", _WHAT)
    hub_id, _, configuration = name.partition(":")
    try:
        return hugging.load_dataset(
            hub_id,
            configuration or None,
            split=split,
            cache_dir=None if cache is None else str(cache),
        )
    except (OSError, ValueError, RuntimeError, hugging.exceptions.DatasetsError) as error:
        raise InvalidOption(
            f"{name} is neither a folder here nor a dataset that the Hugging Face hub gives: "
            f"{error}",
            hint="give the folder, or get it into one with "
            f"`hf download --repo-type dataset {hub_id} --local-dir FOLDER`",
        ) from error


def digest(files: ImageFiles, *also: object) -> str:
    """A name for what was made of these files."""
    return blake2b(repr((files.identity(), also)).encode(), digest_size=12).hexdigest()
