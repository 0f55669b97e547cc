"""A convolutional net on MNIST or Fashion-MNIST, whole or in part.

obliviate lab experiments/images.py FOLDER -o data=DATA --subject erased
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from erased import SEED, planted
from obliviate.datasets import idx_folder

MEAN, DEVIATION = 0.1307, 0.3081  # MNIST's published figures, not computed from these records
TESTED = 5000


def net() -> nn.Module:
    """Two strided convolutions and a hidden layer: 47,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def decaying(step: int, total: int) -> float:
    """From 1 to 0 over the chain, in a straight line."""
    return 1 - step / total


RECIPES = {
    "sgd": {"optimizer": partial(torch.optim.SGD, lr=0.05), "repeats": 5},
    "momentum": {
        "optimizer": partial(torch.optim.SGD, lr=0.02, momentum=0.9),
        "repeats": 4,
        "schedule": decaying,
    },
}


def images(folder: str, split: str, records: int) -> TensorDataset:
    """The first records of IDX files, standardised; all of them for 0."""
    pixels, labels = idx_folder(folder, split).tensors
    end = records or len(labels)
    return TensorDataset((pixels[:end] - MEAN) / DEVIATION, labels[:end])


def project(  # noqa: PLR0917 - options come by name
    data: str = "data/mnist",
    records: str = "6000",
    blocks: str = "30",
    kind: str = "mislabelled",
    place: str = "early",
    recipe: str = "sgd",
) -> ob.Project:
    """What the laboratory trains.

    Args:
        data: The folder of the IDX files.
        records: How many of them; 0 for all.
        blocks: How many blocks they are cut into.
        kind: What is to be forgotten: "mislabelled", "subject" or "backdoor".
        place: In which block: "early", "middle" or "late".
        recipe: "sgd", or "momentum" with a decaying rate.
    """
    test = images(data, "test", TESTED)
    made = planted(
        images(data, "train", int(records)), test, kind=kind, place=place, blocks=int(blocks)
    )
    return ob.Project(
        recipe=ob.Recipe(
            model=net,
            loss=nn.functional.cross_entropy,
            seed=SEED,
            deal="record",  # who is erased was put into blocks of one pass
            **RECIPES[recipe],
        ),
        data=made.data,
        test=test,
        subjects=made.subjects,
        probes=made.probes,
        blocks=int(blocks),
    )
