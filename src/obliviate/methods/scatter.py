"""Scatter: how far means of some people's records lie from what is expected of such records.

References are held against what the others say of them. What is left has two parts: one that all
records of a person share, and one of the record. Their variances are estimated as in a one-way
random effects model with groups of different sizes.

Source: Searle, Casella, McCulloch, Variance Components (1992), section 3.6 (ANOVA estimators).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from obliviate.methods.view import Scores

_DRAWN = 1000


@dataclass(frozen=True)
class Scatter:
    """What references of one kind are away from what is expected of them.

    Attributes:
        shared: What each person's records share, with the variance that is between people; one 0
            where nobody has several records. Shape (p,).
        own: What records have beside that. Shape (n,).
        people: Of how many people it was read off.
    """

    shared: Scores
    own: Scores
    people: int

    @classmethod
    def of(cls, residuals: Scores, whose: NDArray[np.int64]) -> Scatter:
        """Take residuals apart into what people share and what records have of their own.

        Args:
            residuals: Of references. Shape (n,).
            whose: Numbers of people. Shape (n,).
        """
        people, counts = np.unique(whose, return_inverse=True, return_counts=True)[1:]
        total, count = len(residuals), len(counts)
        means = np.bincount(people, weights=residuals) / counts
        within = residuals - means[people]
        if count in {total, 1}:  # nobody has two records, or all are one person's
            return cls(np.zeros(1), residuals, total)
        variance = float((within**2).sum()) / (total - count)
        between = float((counts * (means - residuals.mean()) ** 2).sum())
        effective = total - float((counts**2).sum()) / total
        shared_variance = max(0.0, (between - (count - 1) * variance) / effective)
        noise = variance / counts
        shared = (means - means.mean()) * np.sqrt(
            shared_variance / np.maximum(shared_variance + noise, np.finfo(float).tiny)
        )
        is_several = counts[people] > 1
        own = within[is_several] * np.sqrt(counts / np.maximum(counts - 1, 1))[people][is_several]
        return cls(shared + residuals.mean(), own, count)


def drawn_means(
    scatters: Sequence[Scatter], wrong: Scores, groups: NDArray[np.int64]
) -> tuple[Scores, Scores]:
    """Means over records of as many people, and single records, as chance draws them.

    Args:
        scatters: Of references with their own targets, and with wrong ones where there are such.
        wrong: How surely each record has a wrong target. Shape (n,).
        groups: Whose each record is, by number. Shape (n,).

    Returns:
        How far they are from what is expected. Shapes (draws,) and (draws, n).
    """
    rng, size = np.random.default_rng(0), len(wrong)
    people = np.unique(groups, return_inverse=True)[1]
    is_wrong = rng.random((_DRAWN, size)) < wrong
    drawn = np.zeros((_DRAWN, size))
    for scatter, is_kind in ((scatters[0], ~is_wrong), (scatters[-1], is_wrong)):
        shared = scatter.shared[rng.integers(len(scatter.shared), size=(_DRAWN, size))][:, people]
        own = scatter.own[rng.integers(len(scatter.own), size=(_DRAWN, size))]
        drawn += np.where(is_kind, shared + own, 0.0)
    # what is expected is read off a sample itself, of so many people
    sampling = np.sqrt(1 + (people.max(initial=0) + 1) / scatters[0].people)
    return drawn.mean(axis=1) * sampling, drawn
