"""Data that comes with a library: no download."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from obliviate.recipe.deal import keyed_hash

_HELD_OUT_DIGITS = 297
_DIGIT_INK = 16.0


def digits() -> tuple[TensorDataset, TensorDataset]:
    """The 1,797 handwritten digits that come with scikit-learn: no download.

    Source: Alpaydin, Kaynak 1998, "Optical recognition of handwritten digits", UCI.

    Returns:
        1,500 records to train on and 297 held out, always the same: float32 images of shape
        [n, 1, 8, 8], scaled to 0..1, and int64 labels.
    """
    embedded = load_digits()
    images = torch.from_numpy(embedded.images).float().div_(_DIGIT_INK).unsqueeze(1)
    labels = torch.from_numpy(embedded.target).long()
    # our own hash rather than a library's shuffle, which may change with its version
    order = np.argsort(keyed_hash(np.arange(len(labels), dtype=np.int64), 0), kind="stable")
    held_out = torch.from_numpy(np.sort(order[:_HELD_OUT_DIGITS]))
    training = torch.from_numpy(np.sort(order[_HELD_OUT_DIGITS:]))
    return (
        TensorDataset(images[training], labels[training]),
        TensorDataset(images[held_out], labels[held_out]),
    )
