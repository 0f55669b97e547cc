"""Accuracy: the share of test records that a classifier gets right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from obliviate.errors import TrainingFailed
from obliviate.methods.scores import is_classification
from obliviate.training.batches import moved

if TYPE_CHECKING:
    from torch.utils.data import Dataset

_RECORDS_AT_ONCE = 256


def accuracy(model: nn.Module, test: Dataset[Any] | None, device: str = "cpu") -> float | None:
    """The share of records whose highest output is the target.

    Args:
        model: In eval mode, on the device.
        test: A map-style dataset of (input, target).
        device: Where the model is.

    Returns:
        Between 0 and 1; None without test data, and where this is no classification: outputs of
        shape (records, classes) and one integer target for each record.

    Raises:
        TrainingFailed: The dataset or the model raised.
    """
    if test is None:
        return None
    try:
        return _measured(model, test, device)
    except Exception as error:
        raise TrainingFailed(
            f"measuring accuracy on the test records raised {type(error).__name__}: {error}",
            hint="give test records of (input, target) that the model takes, or none",
        ) from error


def _measured(model: nn.Module, test: Dataset[Any], device: str) -> float | None:
    right = total = 0
    with torch.no_grad():
        for batch in DataLoader(test, batch_size=_RECORDS_AT_ONCE):
            if not (isinstance(batch, list | tuple) and len(batch) == 2):  # noqa: PLR2004
                return None
            inputs, targets = moved(batch, device)
            outputs = model(inputs)
            if not is_classification(outputs, targets):
                return None
            right += int((outputs.argmax(dim=1) == targets).sum())
            total += len(targets)
    return right / total if total else None
