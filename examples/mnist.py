"""A convolutional net on MNIST, or on anything else in IDX files, such as Fashion-MNIST.

From the command line, where this file is a project:

    obliviate fit examples/mnist.py runs/mnist -o data=data/mnist -o writers=data/writers.npz
    obliviate forget runs/mnist --subject writer-2154

From Python, where it is a script:

    python examples/mnist.py --data data/mnist --run runs/mnist

The folder holds the four files as they are published: train-images-idx3-ubyte.gz,
train-labels-idx1-ubyte.gz and the two that start with t10k. Who wrote which digit of MNIST was
published later (QMNIST). Where a file says so, an .npz whose array `train` has a number for each
digit, requests can name writers, whose digits lie together; without it they name records.
"""

from __future__ import annotations

import argparse
import math
import os
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate.datasets import idx_folder

EPOCHS, BLOCKS = 5, 100


def net() -> nn.Module:
    """Two convolutions and a hidden layer: 185,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(1024, 128),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Linear(128, 10),
    )


def cosine(step: int, total: int) -> float:
    """From 1 to 0 over the whole chain, along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / total))


def recipe(epochs: int = EPOCHS) -> ob.Recipe:
    """Ordinary training: in every epoch all records in a new order."""
    return ob.Recipe(
        model=net,
        optimizer=partial(torch.optim.SGD, lr=0.03, momentum=0.9),
        loss=nn.functional.cross_entropy,
        schedule=cosine,
        batch_size=32,
        epochs=epochs,
    )


def standardised(data: TensorDataset) -> TensorDataset:
    """Pixels with mean 0 and deviation 1, by MNIST's published figures."""
    images, labels = data.tensors
    return TensorDataset((images - 0.1307) / 0.3081, labels)


def writers_of(path: str) -> list[str]:
    """Who wrote each training digit."""
    with np.load(path) as arrays:
        return [f"writer-{number}" for number in arrays["train"].tolist()]


def project(
    data: str = "", writers: str = "", epochs: str = str(EPOCHS), blocks: str = str(BLOCKS)
) -> ob.Project:
    """What the command line trains.

    Args:
        data: The folder of the IDX files; else OBLIVIATE_DATA, else data/mnist.
        writers: The file of the writers; else OBLIVIATE_WRITERS, else nobody's name is known.
        epochs: How often all records are gone through.
        blocks: How many blocks an epoch is cut into.
    """
    folder = data or os.environ.get("OBLIVIATE_DATA", "data/mnist")
    named = writers or os.environ.get("OBLIVIATE_WRITERS", "")
    return ob.Project(
        recipe=recipe(int(epochs)),
        data=standardised(idx_folder(folder, "train")),
        test=standardised(idx_folder(folder, "test")),
        subjects=writers_of(named) if named else None,
        blocks=int(blocks),
    )


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """The share of records that a model tells right."""
    images, labels = data.tensors
    with torch.no_grad():
        outputs = torch.cat([model(part) for part in images.split(1000)])
    return float((outputs.argmax(dim=1) == labels).float().mean())


def main() -> None:
    """Train, forget a writer fast, or two records, then settle exactly."""
    parser = argparse.ArgumentParser(description="Forget a writer of MNIST.")
    parser.add_argument("--run", default="runs/mnist", help="folder of the run")
    parser.add_argument("--data", default="", help="folder of the four IDX files")
    parser.add_argument("--writers", default="", help="file that says who wrote which digit")
    parser.add_argument("--epochs", default=str(EPOCHS), help="how often to go through all")
    parser.add_argument("--blocks", default=str(BLOCKS), help="blocks to cut an epoch into")
    given = vars(parser.parse_args())
    folder = given.pop("run")
    mnist = project(**given)

    run = ob.fit(mnist.recipe, mnist.data, folder, blocks=mnist.blocks, subjects=mnist.subjects)
    print(f"trained: {accuracy(run.model, mnist.test):.2%} of the test images are told right")

    if mnist.subjects is None:
        erasure = run.forget(records=[17, 42])
    else:
        erasure = run.forget(subjects=[mnist.subjects[17]])
    print(f"forgot {erasure.records} records in {erasure.seconds:.1f} s: {erasure.stop_reason}")
    print(f"  {erasure.blocks_replayed} of {erasure.blocks_total} blocks were replayed")
    print(f"  now {erasure.guarantee}, {accuracy(erasure.model, mnist.test):.2%} right")

    settled = run.settle()
    print(f"settled: {settled.guarantee}, {accuracy(settled.model, mnist.test):.2%} right")


if __name__ == "__main__":
    main()
