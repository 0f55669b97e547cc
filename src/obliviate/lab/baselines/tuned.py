"""A baseline that goes on training, by steps of its own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obliviate.lab.baselines.needs import gradient, learning_rate
from obliviate.lab.baselines.single import Request, SingleModel, Work, trained
from obliviate.lab.baselines.tuning import Term, Tuning
from obliviate.lab.baselines.unlearner import Unlearner
from obliviate.options import real, whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from obliviate.events import Events
    from obliviate.lab.baselines.needs import Need
    from obliviate.recipe.recipe import Project


@dataclass(frozen=True, kw_only=True)
class Tuned(Unlearner):
    """A baseline that goes on training.

    Attributes:
        epochs: How often it goes through its records; what they are, its steps say.
        lr: The learning rate; that of the recipe's optimizer if None.
    """

    epochs: int = 1
    lr: float | None = None
    fewest_epochs: ClassVar[int] = 1
    needs: ClassVar[tuple[Need, ...]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", whole(self.epochs, "epochs", least=self.fewest_epochs))
        if self.lr is not None:
            object.__setattr__(self, "lr", real(self.lr, "lr", above=0))

    @abstractmethod
    def steps(self, tuning: Tuning) -> Iterator[Sequence[Term]]:
        """The steps; each is made before the next one is asked for."""

    def prepare(self, project: Project, folder: Path) -> Events[SingleModel]:  # noqa: ARG002
        """See `Unlearner.prepare`."""
        return (yield from trained(project, self, self.forget, needs=self.needs_of(project)))

    def needs_of(self, project: Project) -> tuple[Need, ...]:  # noqa: ARG002
        """What a project must have, with these options."""
        rate = () if self.lr is None else (learning_rate,)
        own = (gradient, *rate) if self.epochs else ()
        return (*own, *self.needs)

    def forget(self, model: SingleModel, request: Request) -> Events[Work]:
        """The rule by which a model forgets."""
        tuning = Tuning(model, request, name=self.name, lr=self.lr)
        yield from tuning.run(self.steps(tuning), self.epochs)
        return tuning.work
