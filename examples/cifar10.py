"""A convolutional net with BatchNorm on CIFAR-10, read from Parquet files.

From the command line, where this file is a project:

    obliviate fit examples/cifar10.py runs/cifar10 -o data=data/cifar10
    obliviate forget runs/cifar10 --record 17

From Python, where it is a script:

    python examples/cifar10.py --data data/cifar10 --run runs/cifar10

The folder holds Parquet files as the Hugging Face hub has them, whose names begin with train and
test: a column `img` with the bytes of a picture file, and a column `label`. Reading them takes
pyarrow and Pillow: pip install 'obliviate[datasets]'.

Pictures are cropped and mirrored at random each time they are looked at. All generators are seeded
for each record before it is fetched, so a replay sees the same crops. The numbers that pixels are
scaled by are the same for any pictures: a mean over these would go on remembering all of them.
"""

from __future__ import annotations

import argparse
import math
import os
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import obliviate as ob
from obliviate.errors import InvalidOption

if TYPE_CHECKING:
    from types import ModuleType

EPOCHS, BLOCKS = 10, 20
SIDE, MARGIN = 32, 4


def library(name: str) -> ModuleType:
    """A library that only this example needs."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InvalidOption(
            f"pictures in Parquet files cannot be read: {error}",
            hint="pip install 'obliviate[datasets]'",
        ) from error


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Pictures of 32x32 pixels, each decoded when it is looked at."""

    def __init__(self, files: list[bytes], labels: list[int], *, is_moved: bool) -> None:
        self.files, self.labels, self.is_moved = files, labels, is_moved
        self.open = library("PIL.Image").open

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, record: int) -> tuple[torch.Tensor, int]:
        with self.open(BytesIO(self.files[record])) as picture:
            pixels = np.array(picture.convert("RGB"))
        image = torch.from_numpy(pixels).permute(2, 0, 1).float().div_(127.5).sub_(1)
        return moved(image) if self.is_moved else image, self.labels[record]


def moved(image: torch.Tensor) -> torch.Tensor:
    """An image that is shifted by up to four pixels, and mirrored half of the time."""
    down, right = torch.randint(0, 2 * MARGIN + 1, (2,)).tolist()
    wide = nn.functional.pad(image, (MARGIN,) * 4)
    crop = wide[:, down : down + SIDE, right : right + SIDE]
    return crop.flip(2) if torch.rand(()) < 0.5 else crop


def pictures(folder: str, split: str, most: int | None = None, **options: Any) -> Pictures:
    """The pictures of a split, or the first of them."""
    parquet = library("pyarrow.parquet")
    paths = sorted(Path(folder).rglob(f"{split}*.parquet"))
    if not paths:
        raise InvalidOption(
            f"there is no file {split}*.parquet in {folder}", hint="give its folder: data=FOLDER"
        )
    files, labels = [], []
    for path in paths:
        with parquet.ParquetFile(path) as table:
            columns = table.read(["img.bytes", "label"], use_threads=False).to_pydict()
        files += [picture["bytes"] for picture in columns["img"]]
        labels += columns["label"]
    return Pictures(files[:most], labels[:most], **options)


def layers(inputs: int, outputs: int) -> list[nn.Module]:
    """A convolution, normalised."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def net() -> nn.Module:
    """Four convolutions: 242,000 parameters."""
    return nn.Sequential(
        *layers(3, 32),
        nn.MaxPool2d(2),
        *layers(32, 64),
        nn.MaxPool2d(2),
        *layers(64, 128),
        *layers(128, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def cosine(step: int, total: int) -> float:
    """From 1 to 0 over the whole chain, along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / total))


def project(
    data: str = "", images: str = "", epochs: str = str(EPOCHS), blocks: str = str(BLOCKS)
) -> ob.Project:
    """What the command line trains.

    Args:
        data: The folder of the Parquet files; else OBLIVIATE_CIFAR10, else data/cifar10.
        images: How many images to train on, the first ones; all if left out.
        epochs: How often all images are gone through.
        blocks: How many blocks an epoch is cut into.
    """
    folder = data or os.environ.get("OBLIVIATE_CIFAR10", "data/cifar10")
    recipe = ob.Recipe(
        model=net,
        optimizer=partial(torch.optim.SGD, lr=0.03, momentum=0.9, weight_decay=5e-4),
        loss=nn.functional.cross_entropy,
        schedule=cosine,
        batch_size=32,
        epochs=int(epochs),
    )
    return ob.Project(
        recipe=recipe,
        data=pictures(folder, "train", int(images) if images else None, is_moved=True),
        test=pictures(folder, "test", is_moved=False),
        blocks=int(blocks),
    )


def accuracy(model: nn.Module, data: Pictures) -> float:
    """The share of pictures that a model tells right."""
    with torch.no_grad():
        right = [model(some).argmax(dim=1) == labels for some, labels in DataLoader(data, 500)]
    return float(torch.cat(right).float().mean())


def main() -> None:
    """Train, forget two pictures fast, then settle exactly."""
    parser = argparse.ArgumentParser(description="Forget pictures of CIFAR-10.")
    parser.add_argument("--run", default="runs/cifar10", help="folder of the run")
    parser.add_argument("--data", default="", help="folder of the Parquet files")
    parser.add_argument("--images", default="", help="how many to train on; all if left out")
    parser.add_argument("--epochs", default=str(EPOCHS), help="how often to go through all")
    parser.add_argument("--blocks", default=str(BLOCKS), help="blocks to cut an epoch into")
    given = vars(parser.parse_args())
    folder = given.pop("run")
    cifar = project(**given)

    run = ob.fit(cifar.recipe, cifar.data, folder, blocks=cifar.blocks)
    print(f"trained: {accuracy(run.model, cifar.test):.2%} of the test images are told right")

    erasure = run.forget(records=[17, 42])
    print(f"forgot {erasure.records} records in {erasure.seconds:.1f} s: {erasure.stop_reason}")
    print(f"  {erasure.blocks_replayed} of {erasure.blocks_total} blocks were replayed")
    print(f"  now {erasure.guarantee}, {accuracy(erasure.model, cifar.test):.2%} right")

    settled = run.settle()
    print(f"settled: {settled.guarantee}, {accuracy(settled.model, cifar.test):.2%} right")


if __name__ == "__main__":
    main()
