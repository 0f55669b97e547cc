"""A multi-layer perceptron with Adam on synthetic records of the shape of Purchase-100.

obliviate lab experiments/purchases.py FOLDER --subject erased
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from erased import SEED, planted
from obliviate.datasets import synthetic_purchase

FEATURES, CLASSES, TESTED = 200, 20, 5000


def net() -> nn.Module:
    """One hidden layer: 29,000 parameters."""
    return nn.Sequential(nn.Linear(FEATURES, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def project(
    records: str = "6000", blocks: str = "30", kind: str = "mislabelled", place: str = "early"
) -> ob.Project:
    """What the laboratory trains.

    Args:
        records: How many are made up.
        blocks: How many blocks they are cut into.
        kind: What is to be forgotten: "mislabelled" or "subject".
        place: In which block: "early", "middle" or "late".
    """
    count = int(records)
    inputs, targets = synthetic_purchase(
        count + TESTED, features=FEATURES, classes=CLASSES, seed=SEED
    ).tensors
    test = TensorDataset(inputs[count:], targets[count:])
    made = planted(
        TensorDataset(inputs[:count], targets[:count]),
        test,
        kind=kind,
        place=place,
        blocks=int(blocks),
    )
    return ob.Project(
        recipe=ob.Recipe(
            model=net,
            optimizer=partial(torch.optim.Adam, lr=0.001),
            loss=nn.functional.cross_entropy,
            repeats=5,
            deal="record",  # who is erased was put into blocks of one pass
            seed=SEED,
        ),
        data=made.data,
        test=test,
        subjects=made.subjects,
        blocks=int(blocks),
    )
