"""Lightning's loop of manual optimization, which sees that a step uses gradients of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.loops.optimization.manual import _ManualOptimization

from obliviate.recipe.recipe import invalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class ManualLoop(_ManualOptimization):  # type: ignore[misc]
    """Runs a `training_step` that makes its own backward passes and steps.

    A gradient that an earlier batch left must be cleared before it is used: no checkpoint has it.
    One number of it is spoilt, so that it is seen if it is not.
    """

    def on_run_start(self) -> None:
        """Look at each step of each optimizer."""
        super().on_run_start()
        for each in self.trainer.strategy._lightning_optimizers:
            for gradient in _gradients(each):
                gradient[_first(gradient)] = float("nan")
            each._on_after_step = partial(self._check, each)

    def _check(self, optimizer: Any) -> None:
        self._on_after_step()
        if any(bool(gradient[_first(gradient)].isnan()) for gradient in _gradients(optimizer)):
            raise invalid(
                [
                    "training_step makes a step with gradients that earlier batches left, or with "
                    "a NaN: no checkpoint has them; call zero_grad first, and take larger batches "
                    "where gradients are gathered over several"
                ]
            )


def _gradients(optimizer: Any) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None and gradient.layout == torch.strided and gradient.numel():
                yield gradient


def _first(tensor: Tensor) -> tuple[int, ...]:
    return (0,) * tensor.ndim
