"""A convolutional net on MNIST, whose people are those who wrote the digits, in ordinary epochs.

obliviate lab experiments/writers.py FOLDER -o data=MNIST --subject erased

DATA is a folder of IDX files, and of writers.npz, whose array `train` has the number of the writer
of each training digit (QMNIST's labels).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from erased import SEED
from images import images, net
from people import cohort, some, terms_of

if TYPE_CHECKING:
    import obliviate as ob


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
    with np.load(Path(data) / "writers.npz") as arrays:
        people = arrays["train"].astype(np.int64)
    terms = terms_of(kind, place, records, epochs, blocks, seed, keep=keep)
    made = cohort(partial(some, images(data, "train", 0)), people, terms)
    return made.project(
        model=net,
        optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9),
        loss=nn.functional.cross_entropy,
    )
