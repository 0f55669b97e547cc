"""The baseline "npo": for language models, preferring anything to the forgotten texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from obliviate.lab.baselines.needs import next_tokens
from obliviate.lab.baselines.texts import text_losses
from obliviate.lab.baselines.tuned import Tuned
from obliviate.lab.baselines.tuning import Part, Term, Tuning
from obliviate.options import real

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from obliviate.lab.baselines.needs import Need


@dataclass(frozen=True, kw_only=True)
class NPO(Tuned):
    """Negative preference optimization: the loss of the forgotten levels off as they are forgotten.

    With π the probability of a text and π₀ that under the original model, a step minimizes
    -(2/β)·mean log σ(-β·log(π/π₀)) over the forgotten, plus the recipe's loss of the retained. Its
    gradient is that of ascent, times 2π^β / (π^β + π₀^β), which vanishes as π does.

    Source: Zhang et al. 2024 (arXiv 2404.05868), NPO with the retain loss (NPO+RT); β = 0.1, both
    weights 1 and ten epochs as in the authors' code, at a rate of 0.00001 for a model of 7 billion
    weights. The rate of the recipe is our choice.

    Attributes:
        beta: The inverse temperature; towards 0 it becomes gradient ascent.
        retain: The weight of the retained.
    """

    epochs: int = 10
    beta: float = 0.1
    retain: float = 1.0
    name: ClassVar[str] = "npo"
    needs: ClassVar[tuple[Need, ...]] = (next_tokens,)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "beta", real(self.beta, "beta", above=0))
        object.__setattr__(self, "retain", real(self.retain, "retain", least=0))

    def steps(self, tuning: Tuning) -> Iterator[Sequence[Term]]:
        """Each epoch goes through the forgotten; as many batches of the retained come along."""
        teacher, retained = tuning.teacher(), tuning.cycled(tuning.request.retained)

        def loss(part: Part) -> Tensor:
            return self.loss(part.batch, tuning.module, teacher)

        for epoch in range(self.epochs):
            for batch in tuning.batches(tuning.request.records, epoch):
                forgotten = Term(records=batch, loss=loss)
                if self.retain:
                    yield forgotten, Term(records=next(retained), weight=self.retain)
                else:
                    yield (forgotten,)

    def loss(self, batch: Any, model: nn.Module, original: nn.Module) -> Tensor:
        """The mean over the texts of a batch."""
        with torch.no_grad():
            before = text_losses(original, batch)
        ratios = text_losses(model, batch) - before  # -log(π/π₀)
        return -functional.logsigmoid(self.beta * ratios).mean() * 2 / self.beta
