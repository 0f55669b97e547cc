"""A residual net with BatchNorm on small images.

obliviate lab experiments/residual.py FOLDER -o data=DATA --subject erased
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

import obliviate as ob
from erased import SEED, planted
from images import TESTED, images


class Residual(nn.Module):
    """Two convolutions around a shortcut, each with BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x + self.body(x))


def net() -> nn.Module:
    """Two residual blocks on a 12x12 grid: 10,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Residual(16),
        nn.MaxPool2d(2),
        Residual(16),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(144, 10),
    )


def project(
    data: str = "data/mnist",
    records: str = "6000",
    blocks: str = "30",
    kind: str = "mislabelled",
    place: str = "early",
) -> ob.Project:
    """What the laboratory trains; the options are those of `experiments.images`."""
    test = images(data, "test", TESTED)
    made = planted(
        images(data, "train", int(records)), test, kind=kind, place=place, blocks=int(blocks)
    )
    return ob.Project(
        recipe=ob.Recipe(
            model=net,
            optimizer=partial(torch.optim.SGD, lr=0.05),
            loss=nn.functional.cross_entropy,
            repeats=4,
            deal="record",  # who is erased was put into blocks of one pass
            seed=SEED,
        ),
        data=made.data,
        test=test,
        subjects=made.subjects,
        probes=made.probes,
        blocks=int(blocks),
    )
