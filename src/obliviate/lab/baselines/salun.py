"""The baseline "salun": random labels, where the weights matter most to the forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from obliviate.lab.baselines.random_labels import RandomLabels
from obliviate.lab.baselines.tuning import Term, Tuning
from obliviate.options import real

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SalUn(RandomLabels):
    """Saliency unlearning: only the weights with the largest gradients of the forgotten change.

    Source: Fan et al. 2023 (arXiv 2310.12508): the mask is |∇ L(forgotten)| >= its median over all
    weights, taken before the first step; ten epochs. Buffers, such as BatchNorm's, follow training.

    Attributes:
        share: Of the weights that may change; the median is 0.5, as published.
    """

    share: float = 0.5
    name: ClassVar[str] = "salun"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "share", real(self.share, "share", above=0, most=1))

    def steps(self, tuning: Tuning) -> Iterator[Sequence[Term]]:
        """Those of random labels, on the weights of the mask."""
        tuning.hold(self.mask(tuning))
        yield from super().steps(tuning)

    def mask(self, tuning: Tuning) -> dict[str, Tensor]:
        """True where a weight may change, by the name of the parameter."""
        tuning.module.zero_grad()
        batches = tuning.batches(tuning.request.records, 0)
        count = len(tuning.request.records)
        terms = (Term(records=each, weight=len(each) / count) for each in batches)
        tuning.backward(terms, is_training=False)
        sizes = {
            name: torch.zeros_like(each) if each.grad is None else each.grad.abs()
            for name, each in tuning.module.named_parameters()
            if each.requires_grad
        }
        tuning.module.zero_grad()
        flat = torch.cat([each.reshape(-1) for each in sizes.values()])
        kept = max(1, round(self.share * len(flat)))
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        chosen[flat.topk(kept).indices] = True
        parts = torch.split(chosen, [each.numel() for each in sizes.values()])
        return {name: parts[at].view_as(sizes[name]) for at, name in enumerate(sizes)}
