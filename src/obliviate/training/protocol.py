"""What trains: (state, block) -> state, whoever does it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from obliviate.recipe.contents import NOTHING

if TYPE_CHECKING:
    from obliviate.recipe.contents import Hashes
    from obliviate.states.update import State


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What training needs to go on after a block.

    Attributes:
        model: The state dict.
        optimizer: The packed optimizer state, where it is carried.
    """

    model: State
    optimizer: State | None = None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A block that was trained on.

    Attributes:
        block: Its number.
        checkpoint: The state after it.
        loss: Mean loss over its steps; None where every batch was left empty.
        seconds: How long it took.
        contents: What its records are; see `obliviate.recipe.contents`.
        is_learning: Whether steps were made with a learning rate above 0: then some parameter has
            to be another afterwards.
    """

    block: int
    checkpoint: Checkpoint
    loss: float | None
    seconds: float
    contents: Hashes = field(default_factory=lambda: NOTHING)
    is_learning: bool = False


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of a few steps that are no part of training.

    Attributes:
        batches: A hash of the batches.
        losses: The losses, in digits.
        state: The digest of the state after them.
    """

    batches: str
    losses: str
    state: str
