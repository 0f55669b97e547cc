"""What the tests of exports share: models, and how an export is looked at."""

from __future__ import annotations

import json
from functools import partial

import torch
from torch import nn

import obliviate as ob

BLOCKS = 4
LINEAR = partial(nn.Linear, 4, 3)


class Tied(nn.Module):
    """Two names for one weight, a part of another under a name of its own, and counters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.second(self.first(x).relu())))


def with_model(model, tmp_path, recipe_of, data):
    return ob.fit(recipe_of(model=model), data, tmp_path / "run", blocks=BLOCKS)


def of(exports):
    """How exports stand, in order."""
    return [(each.state, each.standing) for each in exports]


def card_in(place):
    return json.loads((place / "obliviate.json").read_text())


def same(one, other) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )
