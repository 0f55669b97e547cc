"""Averages of the weights: an exponential moving average of all that is trained, beside it.

They are entries of the state of their own, so that a checkpoint has them, and an erasure goes back
to them as to the weights. The model that a run serves has them in the place of its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from obliviate.states.update import place

if TYPE_CHECKING:
    from torch import nn

    from obliviate.states.update import State

PREFIX = "ema/"
"""What the name of an average begins with; the entry's own follows. No module has such a name."""


def attach_averages(model: nn.Module) -> None:
    """Give a new module averages: buffers with the values of its weights."""
    trained = {place(each) for each in model.parameters() if each.requires_grad}
    known: dict[object, Tensor] = {}
    for name, entry in model.state_dict().items():
        if isinstance(entry, Tensor) and place(entry) in trained:  # what is tied has one average
            average = known.setdefault(place(entry), entry.detach().clone())
            model._buffers[PREFIX + name] = average  # names with dots cannot be registered


def detach_averages(model: nn.Module) -> None:
    """Take them off again."""
    for name in [each for each in model._buffers if each.startswith(PREFIX)]:
        del model._buffers[name]


def served_state(state: State) -> State:
    """The state of the module that is served: averages, where there are any, as its weights."""
    names = {name: PREFIX + name for name in state if not name.startswith(PREFIX)}
    return {name: state.get(average, state[name]) for name, average in names.items()}


class Averages:
    """The averages of one module, which follow its weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Find them.

        Args:
            model: Averages are attached to it.
            decay: What is kept of them in each step.
        """
        entries = model.state_dict()
        pairs = {
            place(entry): (entry, entries[name.removeprefix(PREFIX)])
            for name, entry in entries.items()
            if name.startswith(PREFIX)
        }
        self._pairs, self._decay = list(pairs.values()), decay

    def follow(self) -> None:
        """Go a step towards the weights."""
        with torch.no_grad():
            for average, weight in self._pairs:
                average.lerp_(weight, 1 - self._decay)
