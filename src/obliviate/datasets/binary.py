"""Records of zeros and ones with a class: Purchase-100 and Location-30 as they are published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import TensorDataset

from obliviate.datasets.loaded import Loaded
from obliviate.datasets.npz_files import arrays
from obliviate.datasets.sources import LOCATION, PURCHASE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from obliviate.datasets.sources import Source

    Bits = NDArray[np.uint8]

_ZERO, _ONE, _COMMA = b"01,"


def purchase(place: str | Path) -> Loaded:
    """Purchase-100: which of 600 products a customer bought, in 100 classes of customers.

    Source: Shokri, Stronati, Song, Shmatikov 2017, "Membership inference attacks against machine
    learning models"; made from Kaggle's "Acquire valued shoppers" challenge.

    Args:
        place: The file dataset_purchase, or its folder. Each line has the class, counted from 1,
            and then 600 zeros and ones, between commas.

    Returns:
        float32 inputs of shape [n, 600] and int64 classes from 0; a customer has one record:
        "customer-0" is the first.

    Raises:
        InvalidOption: The file is missing or damaged; the message names the line.
    """
    path = PURCHASE.file(place, ["dataset_purchase", "purchase100.csv"])
    return _loaded(*_table(path, PURCHASE), person="customer")


def location(place: str | Path) -> Loaded:
    """Location-30: which of 446 places and kinds of places a person was at, in 30 classes.

    Source: Shokri, Stronati, Song, Shmatikov 2017, "Membership inference attacks against machine
    learning models"; made from check-ins in Bangkok (Yang et al. 2015).

    Args:
        place: The file bangkok as it is published, in the form that `purchase` reads; or a file
            location.npz with the arrays `features` and `labels`, counted from 0; or its folder.

    Returns:
        As `purchase` does, with 446 columns; "person-0" is the first.

    Raises:
        InvalidOption: The file is missing or damaged.
    """
    path = LOCATION.file(place, ["bangkok", "location.npz"])
    if path.suffix != ".npz":
        return _loaded(*_table(path, LOCATION), person="person")
    features, labels = arrays(path, ["features", "labels"], LOCATION)
    if features.ndim != 2 or labels.shape != features.shape[:1]:  # noqa: PLR2004
        raise LOCATION.damaged(path, f"has arrays of {features.shape} and {labels.shape}")
    return _loaded(features, labels, person="person")


def _loaded(features: NDArray[np.generic], labels: NDArray[np.generic], person: str) -> Loaded:
    inputs = torch.from_numpy(features.astype(np.float32))
    targets = torch.from_numpy(labels.astype(np.int64))
    return Loaded(
        data=TensorDataset(inputs, targets),
        subjects=[f"{person}-{number}" for number in range(len(targets))],
    )


def _table(path: Path, source: Source) -> tuple[Bits, NDArray[np.int64]]:
    # by the byte: a parser of numbers takes minutes for 120 million of them
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise source.damaged(path, f"cannot be read: {error}") from error
    pairs = [line.split(b",", 1) for line in lines]
    width = len(pairs[0][-1]) if pairs and len(pairs[0]) == 2 else 0  # noqa: PLR2004
    if not width:
        raise source.damaged(path, "holds no record of a class, zeros and ones")
    bits = np.empty((len(pairs), width // 2 + 1), dtype=np.uint8)
    classes = np.empty(len(pairs), dtype=np.int64)
    for at, pair in enumerate(pairs):
        name = pair[0].strip(b'" ')
        row = np.frombuffer(pair[-1], np.uint8)
        bits_of, commas = row[::2], row[1::2]
        is_row = len(row) == width and (commas == _COMMA).all() and (bits_of - _ZERO <= 1).all()
        if not (is_row and name.isdigit() and int(name) >= 1):
            raise source.damaged(
                path,
                f"is damaged in line {at + 1}: it needs a class from 1 and {bits.shape[1]} zeros "
                "and ones, between commas",
            )
        bits[at], classes[at] = bits_of - _ZERO, int(name) - 1
    return bits, classes
