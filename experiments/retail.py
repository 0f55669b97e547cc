"""A multi-layer perceptron with Adam on the baskets of a shop's customers, in ordinary epochs.

obliviate lab experiments/retail.py FOLDER -o data=RETAIL --subject erased

DATA is a folder with baskets.npz (UCI Online Retail): `baskets`, which of 600 products were bought,
as packed bits, and `customer`, the number of the customer. A net tells of which kind a basket is;
the kinds were made by k-means, as those of Purchase-100 were.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils.data import TensorDataset

from erased import SEED
from people import cohort, some, terms_of

if TYPE_CHECKING:
    import obliviate as ob

PRODUCTS, KINDS = 600, 30
LEAST_BASKETS, LEAST_PRODUCTS = 3, 3  # of a customer, and in a basket


def net() -> nn.Module:
    """One hidden layer: 81,000 parameters."""
    return nn.Sequential(nn.Linear(PRODUCTS, 128), nn.ReLU(), nn.Linear(128, KINDS))


def baskets(folder: str) -> tuple[TensorDataset, np.ndarray]:
    """Baskets with their kinds, no two alike, and whose each is."""
    with np.load(Path(folder) / "baskets.npz") as arrays:
        bought, customers = np.unpackbits(arrays["baskets"], axis=1), arrays["customer"]
    with threadpool_limits(1):  # every process that makes the project has to find the same kinds
        means = KMeans(KINDS, n_init=1, max_iter=20, random_state=0)
        kinds = means.fit_predict(bought.astype(np.float32))
    is_first = np.zeros(len(bought), dtype=bool)
    is_first[np.unique(bought, axis=0, return_index=True)[1]] = True
    rows = np.flatnonzero(is_first & (bought.sum(axis=1) >= LEAST_PRODUCTS))
    people, counts = np.unique(customers[rows], return_inverse=True, return_counts=True)[1:]
    is_often = counts[people] >= LEAST_BASKETS
    rows, people = rows[is_often], people[is_often]
    inputs = torch.from_numpy(bought[rows]).float()
    return TensorDataset(inputs, torch.from_numpy(kinds[rows]).long()), people


def project(  # noqa: PLR0917 - options come by name
    data: str = "data/online_retail",
    kind: str = "mislabelled",
    place: str = "middle",
    records: str = "5000",
    epochs: str = "10",
    blocks: str = "10",
    keep: str = "",
    seed: str = str(SEED),
) -> ob.Project:
    """What the laboratory trains; the options are `cifar`'s, with no backdoor."""
    known, people = baskets(data)
    terms = terms_of(kind, place, records, epochs, blocks, seed, keep=keep)
    made = cohort(partial(some, known), people, terms)
    return made.project(
        model=net,
        optimizer=partial(torch.optim.Adam, lr=0.001),
        loss=nn.functional.cross_entropy,
    )
