"""A small transformer with Adam that reads an image as a sequence of its rows.

obliviate lab experiments/sequences.py FOLDER -o data=DATA --subject erased
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

import obliviate as ob
from erased import SEED, planted
from images import TESTED, images

ROWS, PIXELS, WIDTH = 28, 28, 32


class Reader(nn.Module):
    """Rows as tokens, one encoder layer, the mean of what it makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(PIXELS, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(ROWS, WIDTH))
        self.encoder = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.1, batch_first=True)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.squeeze(1)) + self.places).mean(dim=1))


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
            model=Reader,
            optimizer=partial(torch.optim.Adam, lr=0.002),
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
