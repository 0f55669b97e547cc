"""A convolutional net on MNIST, or on anything else in IDX files, such as Fashion-MNIST.

From the command line, where this file is a project:

    obliviate fit examples/mnist.py runs/mnist -o data=data/mnist
    obliviate forget runs/mnist --record 17

From Python, where it is a script:

    python examples/mnist.py --data data/mnist --run runs/mnist

The folder holds the four files as they are published: train-images-idx3-ubyte.gz,
train-labels-idx1-ubyte.gz and the two that start with t10k. Nobody recorded who wrote which digit,
so requests name records rather than people.
"""

from __future__ import annotations

import argparse
import math
import os
from functools import partial

import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate.datasets import idx_folder

BLOCKS = 500


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


RECIPE = ob.Recipe(
    model=net,
    optimizer=partial(torch.optim.SGD, lr=0.03, momentum=0.9),
    loss=nn.functional.cross_entropy,
    schedule=cosine,
    batch_size=32,
    repeats=4,
)


def standardised(data: TensorDataset) -> TensorDataset:
    """Pixels with mean 0 and deviation 1, by MNIST's published figures."""
    images, labels = data.tensors
    return TensorDataset((images - 0.1307) / 0.3081, labels)


def project(data: str = "", blocks: str = str(BLOCKS)) -> ob.Project:
    """What the command line trains.

    Args:
        data: The folder of the IDX files; else OBLIVIATE_DATA, else data/mnist.
        blocks: How many blocks the records are cut into.
    """
    folder = data or os.environ.get("OBLIVIATE_DATA", "data/mnist")
    return ob.Project(
        recipe=RECIPE,
        data=standardised(idx_folder(folder, "train")),
        test=standardised(idx_folder(folder, "test")),
        blocks=int(blocks),
    )


def accuracy(model: nn.Module, data: torch.utils.data.TensorDataset) -> float:
    """The share of records that a model tells right."""
    images, labels = data.tensors
    with torch.no_grad():
        outputs = torch.cat([model(part) for part in images.split(1000)])
    return float((outputs.argmax(dim=1) == labels).float().mean())


def main() -> None:
    """Train, forget two records fast, then settle exactly."""
    parser = argparse.ArgumentParser(description="Forget records of MNIST.")
    parser.add_argument("--run", default="runs/mnist", help="folder of the run")
    parser.add_argument("--data", default="", help="folder of the four IDX files")
    parser.add_argument("--blocks", default=str(BLOCKS), help="how many blocks to train in")
    chosen = parser.parse_args()
    mnist = project(data=chosen.data, blocks=chosen.blocks)

    run = ob.fit(mnist.recipe, mnist.data, chosen.run, blocks=mnist.blocks)
    print(f"trained: {accuracy(run.model, mnist.test):.2%} of the test images are told right")

    erasure = run.forget(records=[17, 42])
    print(f"forgot {erasure.records} records in {erasure.seconds:.1f} s: {erasure.stop_reason}")
    print(f"  {erasure.blocks_replayed} of {erasure.blocks_total} blocks were replayed")
    print(f"  now {erasure.guarantee}, {accuracy(erasure.model, mnist.test):.2%} right")

    settled = run.settle()
    print(f"settled: {settled.guarantee}, {accuracy(settled.model, mnist.test):.2%} right")


if __name__ == "__main__":
    main()
