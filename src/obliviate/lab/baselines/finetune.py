"""The baseline "finetune": train on, without the records, and hope that they are forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obliviate.lab.baselines.tuned import Tuned
from obliviate.lab.baselines.tuning import Term, Tuning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, kw_only=True)
class FineTune(Tuned):
    """Catastrophic forgetting: some more epochs over everybody who is left.

    Source: Golatkar et al. 2020 (arXiv 1911.04933), where it is a baseline; ten epochs as in the
    code of SCRUB and SalUn. They raise the learning rate; the recipe's own is our choice.
    """

    epochs: int = 10
    name: ClassVar[str] = "finetune"

    def steps(self, tuning: Tuning) -> Iterator[Sequence[Term]]:
        """Each epoch goes through the retained."""
        for epoch in range(self.epochs):
            for batch in tuning.batches(tuning.request.retained, epoch):
                yield (Term(records=batch),)
