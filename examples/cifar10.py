"""A convolutional net with BatchNorm on CIFAR-10, read from Parquet files.

From the command line, where this file is a project:

    obliviate fit examples/cifar10.py runs/cifar10 -o data=data/cifar10
    obliviate forget runs/cifar10 --record 17

From Python, where it is a script:

    python examples/cifar10.py --data data/cifar10 --run runs/cifar10

The folder holds Parquet files as the Hugging Face hub has them, whose names begin with train and
test: a column `img` with the bytes of a picture file, and a column `label`. Reading them takes
Hugging Face datasets and Pillow: pip install 'obliviate[datasets]'.

Pictures are cropped and mirrored at random each time they are looked at. All generators are seeded
for each record before it is fetched, so a replay sees the same crops. The numbers that pixels are
scaled by are the same for any pictures: a mean over these would go on remembering all of them.
"""

from __future__ import annotations

import argparse
import math
import os
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

import obliviate as ob
from obliviate.datasets import Images, images, shifted

EPOCHS, BLOCKS = 10, 20


def scaled(image: torch.Tensor) -> torch.Tensor:
    """Values from -1 to 1."""
    return image.mul(2).sub_(1)


def moved(image: torch.Tensor) -> torch.Tensor:
    """An image that is shifted by up to four pixels, and mirrored half of the time."""
    return shifted(scaled(image))


def pictures(folder: str, split: str, most: int | None = None, *, is_moved: bool) -> Images:
    """The pictures of a split, or the first of them."""
    transform = moved if is_moved else scaled
    return images(Path(folder), split=split, most=most, transform=transform)


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


def accuracy(model: nn.Module, data: Images) -> float:
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
