"""The test of deletion: queries with a planted trigger tell whether it was forgotten.

Source: Sommer, Song, Wagh, Mittal 2022, "Athena: Probabilistic Verification of Machine Unlearning"
(PoPETs 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats

LEVEL = 1e-3
QUERIES = 50


@dataclass(frozen=True, kw_only=True)
class DeletionTest:
    """A test of the hypothesis that the records with the trigger were deleted.

    It is rejected where a trigger works for `threshold` of the queries or more.

    **Assumes** that queries are independent and that models without the trigger obey it with the
    chance `clean`. **Voids**: that chance is taken from a few retrained models; an accepted
    model may still remember what no trigger shows.

    Attributes:
        queries: How many.
        level: How often a model that never saw the trigger may be rejected.
        clean: With what chance such a model gives the target.
        kept: With what chance a model that was trained on it does.
        threshold: The number of successes from which on it is rejected; above `queries` where
            nothing could be.
        power: How often a model that keeps it is rejected.
    """

    queries: int
    level: float
    clean: float
    kept: float
    threshold: int
    power: float

    def accepts(self, successes: int) -> bool:
        """Whether deletion is believed."""
        return successes < self.threshold


def deletion_test(
    clean: float, kept: float, *, queries: int = QUERIES, level: float = LEVEL
) -> DeletionTest:
    """The test of a level, for two chances.

    Args:
        clean: With what chance a model that never saw the trigger gives the target.
        kept: With what chance one that was trained on it does.
        queries: How many are made.
        level: The largest chance of rejecting the former.
    """
    threshold = next(
        count
        for count in range(queries + 2)
        if float(stats.binom.sf(count - 1, queries, clean)) <= level
    )
    return DeletionTest(
        queries=queries,
        level=level,
        clean=clean,
        kept=kept,
        threshold=threshold,
        power=float(stats.binom.sf(threshold - 1, queries, kept)),
    )
