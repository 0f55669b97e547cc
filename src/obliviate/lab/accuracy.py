"""Accuracy: the share of test records that a classifier gets right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from obliviate.errors import TrainingFailed
from obliviate.methods.scores import is_classification
from obliviate.training.batches import feed_of, moved

if TYPE_CHECKING:
    from collections.abc import Sized

    from torch.utils.data import Dataset

    from obliviate.training.collation import Collate

_RECORDS_AT_ONCE = 256


def accuracy(
    model: nn.Module,
    test: Dataset[Any] | None,
    device: str = "cpu",
    collate: Collate | None = None,
) -> float | None:
    """The share of records whose highest output is the target.

    Args:
        model: In eval mode, on the device.
        test: A map-style dataset of (input, target).
        device: Where the model is.
        collate: What makes a batch of them; torch's own collation if None.

    Returns:
        Between 0 and 1; None without test data, and where this is no classification: outputs of
        shape (records, classes) and one integer target for each record.

    Raises:
        TrainingFailed: The dataset or the model raised.
    """
    if test is None:
        return None
    try:
        return _measured(model, test, device, collate)
    except Exception as error:
        raise TrainingFailed(
            f"measuring accuracy on the test records raised {type(error).__name__}: {error}",
            hint="give test records of (input, target) that the model takes, or none",
        ) from error


def _measured(
    model: nn.Module, test: Dataset[Any], device: str, collate: Collate | None
) -> float | None:
    feed, ids = feed_of(test, 0, collate=collate), np.arange(len(cast("Sized", test)))
    right = total = 0
    with torch.no_grad():
        for first in range(0, len(ids), _RECORDS_AT_ONCE):
            batch = feed.batch(ids[first : first + _RECORDS_AT_ONCE], 0)
            if not (isinstance(batch, list | tuple) and len(batch) == 2):  # noqa: PLR2004
                return None
            inputs, targets = moved(batch, device)
            outputs = model(inputs)
            if not is_classification(outputs, targets):
                return None
            right += int((outputs.argmax(dim=1) == targets).sum())
            total += len(targets)
    return right / total if total else None
