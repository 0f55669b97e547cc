"""The contract of a baseline: what is trained without a chain, and asked to forget all the same.

A baseline is a frozen dataclass; its fields are its options, the same in Python and in the text
form "neggrad:epochs=5,lr=0.01". It trains on everything once; what comes of that forgets as often
as it is asked to. `obliviate.testing.UnlearnerContract` tests one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from obliviate.events import Events
    from obliviate.recipe.recipe import Project


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What was spent until there was a model that can be used.

    Attributes:
        seconds: From the call to the usable model.
        steps: How many steps optimizers made; those that erasures leave empty count, too.
        records: How many records went through training, each time counted.
        share: `records`, relative to what training anew on everybody who is left goes through.
    """

    seconds: float
    steps: int
    records: int
    share: float


class Prepared(Protocol):
    """What was trained, and forgets."""

    @property
    def model(self) -> nn.Module | None:
        """The module, in evaluation mode, where there is a single one."""
        ...

    @property
    def models(self) -> int:
        """How many models a prediction asks."""
        ...

    @property
    def cost(self) -> Cost:
        """What preparing took."""
        ...

    @property
    def disk_bytes(self) -> int:
        """What it keeps on disk now, to forget with."""
        ...

    def forget(self, records: NDArray[np.int64]) -> Events[Cost]:
        """Forget some records, beside those that were forgotten before.

        Those are never read again. An error leaves everything as it was.

        Args:
            records: Their ids; shape (n,). What was forgotten already costs nothing.

        Yields:
            How far it has come.

        Returns:
            What it took.

        Raises:
            InvalidOption, UnknownRecord, NothingLeft: The records cannot be forgotten.
            Diverged: What came of it cannot be used.
            NotFinite, TrainingFailed: See `Trainer.train`.
        """
        ...

    def predict(self, inputs: Any) -> Tensor:
        """Outputs for a batch of inputs, in evaluation mode and without gradients.

        Args:
            inputs: As the model takes them, on any device.

        Returns:
            Of shape (n, ...), on the recipe's device: the model's outputs, of a classifier its
            logits. Where several models are asked, the log of their mean probabilities, or votes.
        """
        ...

    def close(self) -> None:
        """Let go of what is held; may be called again."""
        ...


class Unlearner(ABC):
    """A way to forget that needs no chain.

    Attributes:
        name: What it is called in text and tables.
        is_exact: Whether what it leaves is, by construction, what training without the records
            gives. Nobody takes its word for it.
    """

    name: ClassVar[str]
    is_exact: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, project: Project, folder: Path) -> Events[Prepared]:
        """Train on everything.

        Args:
            project: The project; nothing of it is changed.
            folder: An empty folder, its own. Whoever gave it removes it, after `close`.

        Yields:
            How far it has come.

        Returns:
            What forgets.

        Raises:
            Unsupported: The project lacks what this way needs; nothing was trained.
            InvalidRecipe, NotDeterministic: It cannot be trained at all.
            NotFinite, TrainingFailed, StorageFull: Training failed.
        """
