"""The baseline "retrain": train anew, without the records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obliviate.lab.baselines.single import Request, SingleModel, Work, trained
from obliviate.lab.baselines.unlearner import Unlearner

if TYPE_CHECKING:
    from pathlib import Path

    from obliviate.events import Events
    from obliviate.recipe.recipe import Project


@dataclass(frozen=True, kw_only=True)
class Retrain(Unlearner):
    """Train from scratch by the same recipe, without the records: what all others are held to.

    It gives the bits of `fit(exclude=...)`. Its share is 1.
    """

    name: ClassVar[str] = "retrain"
    is_exact: ClassVar[bool] = True

    def prepare(self, project: Project, folder: Path) -> Events[SingleModel]:  # noqa: ARG002
        """See `Unlearner.prepare`."""
        return (yield from trained(project, self, again))


def again(model: SingleModel, request: Request) -> Events[Work]:
    """The rule: train anew, without everybody who is to be forgotten."""
    return (yield from model.train(request.gone, "retrain"))
