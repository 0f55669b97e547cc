"""The baseline "neggrad": up the loss of the forgotten, down that of the retained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obliviate.lab.baselines.tuned import Tuned
from obliviate.lab.baselines.tuning import Term, Tuning
from obliviate.options import real

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, kw_only=True)
class NegGrad(Tuned):
    """NegGrad+: each step minimizes α·L(retained) - (1-α)·L(forgotten).

    Source: Kurmanji et al. 2023 (arXiv 2302.09880). Their code has five epochs at a rate of 0.01
    and, where a class is forgotten, α = 0.9999; for single people that is next to fine-tuning, so
    0.95 is our choice. A loss that grows without bounds may diverge, which is then said.

    Attributes:
        alpha: The weight of the retained, above 0; at 1 nothing is made worse.
    """

    epochs: int = 5
    alpha: float = 0.95
    name: ClassVar[str] = "neggrad"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "alpha", real(self.alpha, "alpha", above=0, most=1))

    def steps(self, tuning: Tuning) -> Iterator[Sequence[Term]]:
        """Each epoch goes through the retained; the forgotten come along, again and again."""
        forgotten = tuning.cycled(tuning.request.records)
        for epoch in range(self.epochs):
            for batch in tuning.batches(tuning.request.retained, epoch):
                worse = Term(records=next(forgotten), weight=self.alpha - 1)
                yield Term(records=batch, weight=self.alpha), worse
