"""Regression: by what angle was this digit turned?

    obliviate lab experiments/angles.py FOLDER -o data=DATA --subject erased

A mislabelled record has an angle half the range away from its own.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from erased import SEED, planted
from images import images

WIDEST = math.pi / 4


def net() -> nn.Module:
    """Two strided convolutions and a hidden layer, one number out: 46,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 1),
    )


def turned(data: TensorDataset, seed: int) -> TensorDataset:
    """Images turned by angles drawn evenly from ±45 degrees, and the angles in units of 45."""
    pixels = data.tensors[0]
    generator = torch.Generator().manual_seed(seed)
    shares = 2 * torch.rand(len(pixels), generator=generator) - 1
    angles = WIDEST * shares
    rows = [angles.cos(), -angles.sin(), torch.zeros(len(pixels))]
    others = [angles.sin(), angles.cos(), torch.zeros(len(pixels))]
    turns = torch.stack([torch.stack(rows, dim=1), torch.stack(others, dim=1)], dim=1)
    grid = nn.functional.affine_grid(turns, list(pixels.shape), align_corners=False)
    shown = nn.functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return TensorDataset(shown, shares.unsqueeze(1))


def project(
    data: str = "data/mnist",
    records: str = "6000",
    blocks: str = "30",
    kind: str = "mislabelled",
    place: str = "early",
) -> ob.Project:
    """What the laboratory trains; the options are those of `experiments.images`."""
    test = turned(images(data, "test", 2000), seed=SEED + 1)
    known = turned(images(data, "train", int(records)), seed=SEED)
    made = planted(known, test, kind=kind, place=place, blocks=int(blocks))
    return ob.Project(
        recipe=ob.Recipe(
            model=net,
            optimizer=partial(torch.optim.SGD, lr=0.05),
            loss=nn.functional.mse_loss,
            repeats=5,
            deal="record",  # who is erased was put into blocks of one pass
            seed=SEED,
        ),
        data=made.data,
        test=test,
        subjects=made.subjects,
        blocks=int(blocks),
    )
