"""A convolutional net on Fashion-MNIST, in ordinary epochs.

obliviate lab experiments/fashion.py FOLDER -o data=FASHION --subject erased
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from erased import SEED
from images import images, net
from people import cohort, some, terms_of

if TYPE_CHECKING:
    import obliviate as ob


def project(  # noqa: PLR0917 - options come by name
    data: str = "data/fashion-mnist",
    kind: str = "mislabelled",
    place: str = "middle",
    records: str = "4000",
    epochs: str = "10",
    blocks: str = "10",
    keep: str = "",
    seed: str = str(SEED),
) -> ob.Project:
    """What the laboratory trains; the options are those of `experiments.cifar`."""
    known = images(data, "train", 0)
    terms = terms_of(kind, place, records, epochs, blocks, seed, keep=keep)
    made = cohort(partial(some, known), terms.alike(len(known)), terms)
    return made.project(
        model=net,
        optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9),
        loss=nn.functional.cross_entropy,
    )
