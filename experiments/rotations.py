"""Regression, in ordinary epochs: by what angle was this digit turned?

obliviate lab experiments/rotations.py FOLDER -o data=MNIST --subject erased
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from angles import net, turned
from erased import SEED
from images import images
from people import cohort, some, terms_of

if TYPE_CHECKING:
    import obliviate as ob

POOL = 10000  # of the digits, the first ones


def project(  # noqa: PLR0917 - options come by name
    data: str = "data/mnist",
    kind: str = "mislabelled",
    place: str = "middle",
    records: str = "4000",
    epochs: str = "10",
    blocks: str = "10",
    keep: str = "",
    seed: str = str(SEED),
) -> ob.Project:
    """What the laboratory trains; the options are those of `experiments.cifar`."""
    known = turned(images(data, "train", POOL), seed=int(seed))
    terms = terms_of(kind, place, records, epochs, blocks, seed, keep=keep)
    made = cohort(partial(some, known), terms.alike(len(known)), terms)
    return made.project(
        model=net,
        optimizer=partial(torch.optim.Adam, lr=0.002),
        loss=nn.functional.mse_loss,
    )
