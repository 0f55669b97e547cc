"""Fully connected nets."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn

from obliviate.options import listed, real, whole

if TYPE_CHECKING:
    from collections.abc import Sequence


class MLP(nn.Module):
    """A multilayer perceptron: linear layers with an activation between them.

    The net of Purchase-100 and Location-30 in Shokri et al. 2017, "Membership inference attacks
    against machine learning models", has one hidden layer of 128 tanh units.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        hidden: Sequence[int] = (128,),
        is_tanh: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """Draw the weights.

        Args:
            inputs: How many values a record has; records of several dimensions are flattened.
            classes: How many outputs there are.
            hidden: The width of each hidden layer.
            is_tanh: Whether units are tanh rather than rectified.
            dropout: The chance that a hidden unit is left out of a step.
        """
        super().__init__()
        hint = "give the widths of the layers, such as (128,)"
        widths = [inputs, *listed(hidden, "hidden", hint), classes]
        sizes = [whole(width, "a layer's width", least=1, hint=hint) for width in widths]
        chance = real(dropout, "dropout", least=0, most=1)
        layers: list[nn.Module] = [nn.Flatten()]
        for narrow, wide in pairwise(sizes[:-1]):
            layers += [nn.Linear(narrow, wide), nn.Tanh() if is_tanh else nn.ReLU()]
            if chance:
                layers.append(nn.Dropout(chance))
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))

    def forward(self, records: Tensor) -> Tensor:
        """Logits. Shape (n, ...) -> (n, classes)."""
        logits: Tensor = self.layers(records)
        return logits
