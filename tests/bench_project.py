"""A project to be compared on, which trains in a blink; other processes can make it, too."""

from functools import partial

import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob

COUNT, CLASSES, FEATURES = 90, 3, 8
PEOPLE = [f"user-{record // (1 + record % 3)}" for record in range(COUNT)]


def records(count, seed):
    """Noisy records of three classes."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % CLASSES
    centres = 2 * torch.eye(CLASSES, FEATURES)
    return TensorDataset(
        centres[targets] + torch.randn(count, FEATURES, generator=generator), targets
    )


def made():
    """The project."""
    recipe = ob.Recipe(
        model=partial(nn.Linear, FEATURES, CLASSES),
        optimizer=partial(torch.optim.SGD, lr=0.2),
        loss=nn.functional.cross_entropy,
        batch_size=8,
        repeats=4,
        seed=4,
    )
    return ob.Project(
        recipe=recipe, data=records(COUNT, 0), test=records(90, 1), subjects=PEOPLE, blocks=8
    )
