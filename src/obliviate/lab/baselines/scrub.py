"""The baseline "scrub": a student that disobeys its teacher on the forgotten alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional

from obliviate.lab.baselines.needs import classes
from obliviate.lab.baselines.rewinding import Rewinding
from obliviate.lab.baselines.tuned import Tuned
from obliviate.lab.baselines.tuning import Part, Term, Tuning
from obliviate.options import flag, real, whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from obliviate.lab.baselines.needs import Need
    from obliviate.recipe.recipe import Project


@dataclass(frozen=True, kw_only=True)
class Scrub(Tuned):
    """SCRUB: in turn, away from the original model on the forgotten, towards it on the retained.

    In the first epochs a pass over the forgotten maximizes KL(teacher ‖ student); a pass over the
    retained then minimizes α·KL + γ·cross entropy.

    Source: Kurmanji et al. 2023 (arXiv 2302.09880), with the values of the authors' code for small
    data sets; there the rate is 0.0005, of Adam, and falls. The rate of the recipe is our choice.

    Attributes:
        max_epochs: In how many epochs, the first ones, it goes away from the teacher.
        alpha: The weight of the teacher on the retained.
        gamma: That of their labels.
        temperature: That both answers are softened with.
        rewind: Go back, in the end, to the epoch in which the forgotten are wrong as often as test
            records of their classes (SCRUB+R).
    """

    epochs: int = 10
    max_epochs: int = 3
    alpha: float = 0.5
    gamma: float = 1.0
    temperature: float = 2.0
    rewind: bool = False
    name: ClassVar[str] = "scrub"
    needs: ClassVar[tuple[Need, ...]] = (classes,)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "max_epochs", whole(self.max_epochs, "max_epochs", least=1))
        for name in ("alpha", "gamma"):
            object.__setattr__(self, name, real(getattr(self, name), name, least=0))
        object.__setattr__(self, "temperature", real(self.temperature, "temperature", above=0))
        object.__setattr__(self, "rewind", flag(self.rewind, "rewind"))

    def needs_of(self, project: Project) -> tuple[Need, ...]:
        """See `Tuned.needs_of`."""
        needs = super().needs_of(project)
        is_lacking = self.rewind and project.test is None
        return (*needs, lambda _: "test records: Project(test=...)") if is_lacking else needs

    def steps(self, tuning: Tuning) -> Iterator[Sequence[Term]]:
        """Each epoch goes through the forgotten, in the first ones, and through the retained."""
        teacher, rewinding = tuning.teacher(), Rewinding(tuning)

        def apart(part: Part) -> Tensor:
            return self.divergence(part, tuning.module, teacher)

        def together(part: Part) -> Tensor:
            return self.agreement(part, tuning.module, teacher)

        for epoch in range(self.epochs):
            if epoch < self.max_epochs:
                for batch in tuning.batches(tuning.request.records, epoch):
                    yield (Term(records=batch, weight=-1.0, loss=apart),)
            for batch in tuning.batches(tuning.request.retained, epoch):
                yield (Term(records=batch, loss=together),)
            if self.rewind:
                rewinding.note()
        if self.rewind:
            rewinding.rewind()

    def divergence(self, part: Part, student: nn.Module, teacher: nn.Module) -> Tensor:
        """KL(teacher ‖ student) of softened answers, times T²: its mean over the records."""
        inputs, _ = part.batch
        return self._divergence(student(inputs), inputs, teacher)

    def agreement(self, part: Part, student: nn.Module, teacher: nn.Module) -> Tensor:
        """α·KL(teacher ‖ student) + γ·cross entropy."""
        inputs, targets = part.batch
        outputs = student(inputs)
        learned = functional.cross_entropy(outputs, targets)
        return self.alpha * self._divergence(outputs, inputs, teacher) + self.gamma * learned

    def _divergence(self, outputs: Tensor, inputs: Tensor, teacher: nn.Module) -> Tensor:
        with torch.no_grad():
            wanted = (teacher(inputs) / self.temperature).log_softmax(dim=1)
        given = (outputs / self.temperature).log_softmax(dim=1)
        distance = functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
        return distance * self.temperature**2
