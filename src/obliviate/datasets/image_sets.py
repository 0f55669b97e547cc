"""Images that are decoded when they are looked at, or once, into a file on the disk."""

from __future__ import annotations

from contextlib import suppress
from copy import copy
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from obliviate.datasets.image_files import digest, image_files
from obliviate.datasets.sources import library
from obliviate.errors import InvalidOption
from obliviate.options import choice, listed, path_text, text, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from obliviate.datasets.image_files import ImageFiles

    Pixels = NDArray[np.uint8]

_MODES = ("RGB", "L")
_WHITE = 255


class Images(Dataset[tuple[Tensor, int]]):
    """Images of one split: see `images`.

    Attributes:
        labels: The class of each, shape [n].
    """

    def __init__(
        self,
        files: ImageFiles,
        *,
        mode: str,
        size: tuple[int, int] | None,
        transform: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.labels = files.labels
        self._files, self._mode, self._size, self._transform = files, mode, size, transform
        self._decoded: Pixels | None = None
        self._pillow = library("PIL.Image", "pictures")
        self._fit = library("PIL.ImageOps", "pictures").fit

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, record: int) -> tuple[Tensor, int]:
        pixels = self.pixels(record) if self._decoded is None else np.array(self._decoded[record])
        image = torch.from_numpy(pixels).permute(2, 0, 1).float().div_(_WHITE)
        moved = image if self._transform is None else self._transform(image)
        return moved, int(self.labels[record])

    def transformed(self, transform: Callable[[Tensor], Tensor] | None) -> Images:
        """The same images under another transform."""
        other = copy(self)
        other._transform = transform
        return other

    def first(self, records: int) -> Images:
        """The first of the images."""
        fewer = copy(self)
        fewer.labels = self.labels[:records]
        return fewer

    def pixels(self, record: int) -> Pixels:
        """An image, decoded. Shape [height, width, channels].

        Raises:
            InvalidOption: The file is damaged, or not there.
        """
        try:
            with self._pillow.open(BytesIO(self._files.content(record))) as picture:
                shown = picture.convert(self._mode)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on damaged files
            raise InvalidOption(
                f"record {record} of {self._files.place} is no picture that can be read: {error}",
                hint="put the picture back, or leave the record out: fit(..., exclude=[...])",
            ) from error
        if self._size is not None and shown.size != self._size[::-1]:
            shown = self._fit(shown, self._size[::-1])
        pixels = np.array(shown, dtype=np.uint8)
        return pixels if pixels.ndim > 2 else pixels[:, :, None]  # noqa: PLR2004

    def decode(self, folder: Path) -> None:
        """Decode all images into a file, unless it is there, and read them from it from now on.

        The file is mapped into memory: of n images of one size it takes as many bytes as they have
        values.

        Args:
            folder: Where the file is; its name says what it was made of.

        Raises:
            InvalidOption: The images differ in size.
        """
        path = folder / f"{digest(self._files, self._mode, self._size, len(self))}.npy"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder) as beside:
                self._decode_to(Path(beside, path.name))
                Path(beside, path.name).replace(path)
        self._decoded = np.load(path, mmap_mode="r", allow_pickle=False)

    def _decode_to(self, path: Path) -> None:
        shape = self.pixels(0).shape
        stored = np.lib.format.open_memmap(path, "w+", np.uint8, (len(self), *shape))
        for record in range(len(self)):
            pixels = self.pixels(record)
            if pixels.shape != shape:
                raise InvalidOption(
                    f"record {record} of {self._files.place} has {pixels.shape[:2]} pixels, the "
                    f"first {shape[:2]}",
                    hint="give one size for all: images(..., size=(height, width))",
                )
            stored[record] = pixels
        stored.flush()


def images(
    source: Any,
    *,
    split: str = "train",
    size: int | Sequence[int] | None = None,
    mode: str = "RGB",
    transform: Callable[[Tensor], Tensor] | None = None,
    image: str | None = None,
    label: str | None = None,
    most: int | None = None,
    decoded: str | Path | None = None,
    cache: str | Path | None = None,
) -> Images:
    """Images with their classes: CIFAR-10, SVHN, ImageNet, Tiny-ImageNet, or a folder of your own.

    Parquet files are read by their row groups, once, into an Arrow file in `cache` that is mapped
    into memory. It holds copies of people's pictures, as `decoded` does: delete both when the
    originals are deleted.

    Args:
        source: A folder with Parquet files as the Hugging Face hub has them, whose names, or whose
            folder's name, begin with the split: a column {bytes, path} and one of classes. Or a
            folder with one for each class, maybe under one for each split. Or a dataset's name on
            the hub, "uoft-cs/cifar10", maybe with ":" and a configuration. Or a Hugging Face
            dataset that is loaded.
        split: "train", "test", "validation" or another that there is.
        size: Height and width to which images are cropped in the middle and scaled, an int for
            both; None for images that are all of one size.
        mode: "RGB" or "L" (grey).
        transform: What is done to each image whenever it is looked at, such as a random crop. It
            draws from the global generators, which are seeded for each record.
        image: The column of the pictures, where it is called neither image nor img.
        label: The column of the classes, where it is not called label, labels or fine_label.
        most: How many to take, the first ones; all if None.
        decoded: A folder for the decoded images, where decoding would slow training down.
        cache: A folder for the Arrow files; Hugging Face's own (HF_HOME) if None.

    Returns:
        A dataset of (float32 of shape [channels, height, width] between 0 and 1, class).

    Raises:
        InvalidOption: There are no such images.
        ExtraMissing: A library is not installed: pip install 'obliviate[datasets]'.
    """
    files = image_files(
        source,
        split=text(split, "split"),
        image=image,
        label=label,
        cache=None if cache is None else Path(path_text(cache, "cache")),
    )
    data = Images(
        files,
        mode=choice(mode, "mode", _MODES),
        size=_sides(size),
        transform=transform,
    )
    if not len(data):
        raise InvalidOption(f"{files.place} holds no records", hint="give another split")
    if most is not None:
        data = data.first(whole(most, "most", least=1))
    if decoded is not None:
        data.decode(Path(path_text(decoded, "decoded")))
    return data


def _sides(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else listed(size, "size", "give two numbers")
    with suppress(ValueError):
        height, width = (whole(each, "size", least=1) for each in sides)
        return height, width
    raise InvalidOption(f"size is {sides}", hint="give height and width, or one int for both")


def shifted(image: Tensor, *, margin: int = 4) -> Tensor:
    """An image that is shifted by up to `margin` pixels, and mirrored half of the time.

    A transform for `images`; zeros come in at the sides.

    Args:
        image: Shape [channels, height, width].
        margin: In pixels.

    Source: He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", 4.2.
    """
    height, width = image.shape[-2:]
    down, right = torch.randint(0, 2 * margin + 1, (2,)).tolist()
    wide = torch.nn.functional.pad(image, (margin,) * 4)
    crop = wide[..., down : down + height, right : right + width]
    return crop.flip(-1) if torch.rand(()) < 0.5 else crop  # noqa: PLR2004
