"""Made-up purchase records: nothing in them is real."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import TensorDataset

from obliviate.options import whole

# weak enough that a linear model memorises 25,000 records wholly but mistakes some new ones:
# without such a gap there would be no memory of a record to look for
_TASTE = 0.5


def synthetic_purchase(
    records: int, *, features: int = 600, classes: int = 100, seed: int = 0
) -> TensorDataset:
    """Synthetic records of the shape of Purchase-100: who bought which of many products.

    Nothing in them is real. Each class of customers has a taste: a chance of buying each product,
    which is the product's own popularity bent by the class. A record draws its class, then its
    purchases, independently.

    Args:
        records: How many customers.
        features: How many products.
        classes: How many kinds of customers.
        seed: The same seed gives the same records.

    Returns:
        float32 zeros and ones of shape [records, features], and int64 classes.

    Raises:
        InvalidOption: A number is not a positive int.
    """
    hint = "give an int of 1 or more"
    records, features, classes = (
        whole(value, name, least=1, hint=hint)
        for name, value in (("records", records), ("features", features), ("classes", classes))
    )
    seed = whole(seed, "seed", hint="give 0 or a positive int")
    generator = np.random.default_rng(seed)
    popularity = generator.normal(-1.5, 1.0, features)
    taste = popularity + generator.normal(0.0, _TASTE, (classes, features))
    chances = (1 / (1 + np.exp(-taste))).astype(np.float32)
    kinds = generator.integers(classes, size=records)
    bought = np.empty((records, features), dtype=np.float32)
    for kind in range(classes):
        members = np.flatnonzero(kinds == kind)
        draws = generator.random((len(members), features), dtype=np.float32)
        bought[members] = draws < chances[kind]
    return TensorDataset(torch.from_numpy(bought), torch.from_numpy(kinds))
