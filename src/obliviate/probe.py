"""Trying a first step before a run is made: what cannot be replayed is refused up front."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from obliviate.errors import NotDeterministic
from obliviate.recipe import invalid
from obliviate.training import made_model
from obliviate.vault.codec import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from obliviate.training import Trainer


def probe(trainer: Trainer, erased: NDArray[np.int64]) -> None:
    """Try one step, twice.

    Raises:
        InvalidRecipe: Faults of the model, the optimizer or the batch, all in one message.
        NotDeterministic: The second time gave something else.
        TrainingFailed: The dataset, the model, the loss or the optimizer raised.
        NotFinite: The loss is NaN or infinite.
    """
    faults = list(faults_of(trainer.model))
    if faults:
        raise invalid(faults)
    found = next(
        (
            (block, step, records)
            for block in range(1, trainer.layout.blocks + 1)
            for step, records in trainer.layout.batches(block, erased)
        ),
        None,
    )
    if found is None:
        raise invalid(["no batch is large enough to train on; take fewer blocks"])
    initial = trainer.initial()
    _check_own_tensors(trainer)
    first, second = (trainer.try_step(initial, *found) for _ in range(2))
    if first != second:
        parts = ("the batch", "the loss", "the state after the step")
        which = next(part for part, a, b in zip(parts, first, second, strict=True) if a != b)
        raise NotDeterministic(
            f"the first step, tried twice, gave two results: {which} differs",
            hint="draw randomness from the global generators of torch, numpy and Python (they "
            "are seeded before each record and step); keep no state outside the state dict",
        )


def _check_own_tensors(trainer: Trainer) -> None:
    with trainer.environment.entered():
        other = made_model(trainer.recipe)
    mine = {tensor.data_ptr() for tensor in trainer.model.state_dict().values() if tensor.numel()}
    for name, tensor in other.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in mine:
            fault = f"model() gives {name!r} of the model before: training would change both"
            raise invalid([fault + "; make new modules in it, or deepcopy the old ones"])


def faults_of(model: nn.Module) -> Iterator[str]:
    """What in a model cannot be kept in a checkpoint, or cannot be trained."""
    for name, value in model.state_dict().items():
        if is_lazy(value):
            yield f"{name!r} has no shape yet; run a batch through the model in its factory"
        elif not isinstance(value, Tensor):
            yield f"state dict entry {name!r} is not a tensor; keep extra state in buffers"
        elif value.layout != torch.strided:
            yield f"state dict entry {name!r} is {value.layout}; only dense tensors can be kept"
        elif value.dtype not in DTYPES:
            yield f"{name!r} is {value.dtype}, which cannot be kept; use bfloat16, float32, ..."
    if not any(parameter.requires_grad for parameter in model.parameters()):
        yield "no parameter of the model requires a gradient"
