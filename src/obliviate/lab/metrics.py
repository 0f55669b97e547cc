"""Measures of forgetting: how far unlearned models are from models that never saw the records.

All of them compare two families of models, one value per model and record: the score. For a
classifier that is the margin of the true class, z_y - logsumexp of the others, which is also the
logit of its confidence; elsewhere minus the record's loss. A matrix of scores has the shape
(models, records). None of them proves forgetting: two families that no measure here tells apart may
still differ, and every value has a floor that comes of chance alone, the higher the fewer models
there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Scores = NDArray[np.float64]

CLIP = 100.0  # as in the published definition of KLoM
_KLOM_FLOOR = 1e-5
_EASYDUB_BINS = 20
_TINY = 1e-12  # below this a deviation is rounding, not randomness
LEVEL = 0.05  # how often an exact replay may be called different


def shift(unlearned: Scores, retrained: Scores) -> float:
    """How far the mean score of a record has moved, in standard deviations, on average.

    For each record |mean over unlearned - mean over retrained| / pooled deviation over models; then
    the mean over the records.

    **Assumes** independent seeds within each family. **Voids**: it is never 0. Two families of N
    retrained models have a shift of about 0.8·√(2/N) by chance; see `null_of`.

    Args:
        unlearned: Shape (models, records), two models or more.
        retrained: Shape (other models, records), two models or more.

    Returns:
        0 or more; 0 for a record on which no model differs from another.
    """
    apart = np.abs(unlearned.mean(axis=0) - retrained.mean(axis=0))
    return float(np.mean(_in_deviations(apart, pooled_deviation(unlearned, retrained))))


def bias(unlearned: Scores, exact: Scores, deviation: Scores) -> tuple[float, float]:
    """How far a method misses the exact replay of the same seed, and how surely.

    The models come in pairs that share everything but the method, so what the seeds do cancels.

    **Assumes** that row i of both is of the same seed. **Voids**: one number over all records;
    errors of opposite sign cancel in it, though not in `shift`.

    Args:
        unlearned: Shape (models, records).
        exact: The same shape.
        deviation: Of each record's score over retrained models; shape (records,).

    Returns:
        The mean difference in deviations (negative: the records are predicted worse than by a model
        that never saw them, which is over-forgetting) and its standard error over the seeds.
    """
    each = _in_deviations(unlearned - exact, deviation).mean(axis=1)
    error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else float("nan")
    return float(each.mean()), error


def pooled_deviation(left: Scores, right: Scores) -> Scores:
    """√((s² + t²)/2) for each record. Shapes (n, records), (m, records) -> (records,)."""
    squared = (left.var(axis=0, ddof=1) + right.var(axis=0, ddof=1)) / 2
    deviation: Scores = np.sqrt(squared)
    return deviation


def _in_deviations(difference: Scores, deviation: Scores) -> Scores:
    is_random = deviation > _TINY
    apart: Scores = np.where(
        is_random, difference / np.where(is_random, deviation, 1.0), _certain(difference)
    )
    return apart


def _certain(difference: Scores) -> Scores:
    """Where no model differs from another, a difference is as large as `CLIP`, or is none."""
    sure: Scores = np.where(np.abs(difference) > _TINY, np.sign(difference) * CLIP, 0.0)
    return sure


def klom(unlearned: Scores, retrained: Scores, *, bins: int) -> Scores:
    """KL divergence of margins, for each record.

    KL(histogram over unlearned models ‖ histogram over retrained models), over equal bins that span
    both; scores clipped to ±100, shares floored at 1e-5.

    Source: Georgiev et al. 2024, "Attribute-to-delete" (arXiv 2410.23232), where it is reported as
    the 95th percentile over the records.

    **Assumes** enough models for a histogram. **Voids**: between two identical families the 95th
    percentile is 3.0 with 20 bins and 32 models, 1.2 with 64, 0.7 with 100; with 5 bins 0.7, 0.3
    and 0.14. Below 100 models take 5 bins, and read it beside the floor always.

    Returns:
        Shape (records,).
    """
    left, right = (np.clip(each, -CLIP, CLIP) for each in (unlearned, retrained))
    low = np.minimum(left.min(axis=0), right.min(axis=0))
    span = np.maximum(left.max(axis=0), right.max(axis=0)) - low
    width = np.where(span > _TINY, span, np.inf) / bins  # one bin where no model differs
    p, q = (_shares(each, low, width, bins) + _KLOM_FLOOR for each in (left, right))
    divergence: Scores = np.sum(p * np.log(p / q), axis=0)
    return divergence


def _shares(scores: Scores, low: Scores, width: Scores, bins: int) -> Scores:
    """The share of models in each bin. Shape (models, records) -> (bins, records)."""
    places = np.clip((scores - low) // width, 0, bins - 1)
    shares: Scores = np.stack([(places == at).mean(axis=0) for at in range(bins)])
    return shares


def klom_easydub(unlearned: Scores, retrained: Scores) -> Scores:
    """KLoM as the public benchmark EasyDUB computes it, for each record.

    KL(histogram over unlearned models ‖ histogram over retrained models) over 20 equal bins that
    span both, margins clipped to ±100; a bin that only unlearned models fall in counts as 1e-5 of
    the retrained ones, bins without unlearned models count nothing. Beside `klom` it differs in
    three ways: bins are open above, so that the largest value of both families falls out before
    shares are taken; only the retrained models' shares have a floor; and it is the larger of share
    and floor, not their sum.

    Source: Rinberg, Puigdemont, Pawelczyk, Cevher 2025, "Data-Unlearn-Bench" (arXiv 2602.16400),
    `binned_kl_divergence` in github.com/easydub/EasyDUB-code, where it is reported as the 95th
    percentile over all records of the forget, the retain and the validation set each, from 100
    models a family. Its predecessor, data-unlearning-bench, divides the retrained models' shares by
    their sum once more.

    **Assumes** as many models in both families. **Voids**: that of `klom`, whose floors it nearly
    has: read it from 100 models on. Where all unlearned models share the largest value it is 0,
    however far the retrained ones are.

    Returns:
        Shape (records,).
    """
    left, right = (np.clip(each, -CLIP, CLIP) for each in (unlearned, retrained))
    low = np.minimum(left.min(axis=0), right.min(axis=0))
    high = np.maximum(left.max(axis=0), right.max(axis=0))
    edges = np.linspace(low, np.where(low < high, high, low + 1), _EASYDUB_BINS + 1)
    p, q = (_shares_within(each, edges) for each in (left, right))
    q = np.maximum(q, _KLOM_FLOOR)
    divergence: Scores = np.sum(p * np.log(np.where(p > 0, p, q) / q), axis=0)
    return divergence


def _shares_within(scores: Scores, edges: Scores) -> Scores:
    """Of the models between the edges, the share in each bin. Returns shape (bins, records)."""
    counts = np.stack(
        [((scores >= low) & (scores < high)).sum(axis=0) for low, high in pairwise(edges)]
    )
    shares: Scores = counts / np.maximum(counts.sum(axis=0), 1)
    return shares


@dataclass(frozen=True, kw_only=True)
class Attack:
    """How well an attacker tells unlearned models from models that never saw the record.

    Attributes:
        auc: Area under the curve; 0.5 is guessing.
        rates: The true-positive rate at each false-positive rate asked for.
    """

    auc: float
    rates: dict[float, float]


def u_lira(unlearned: Scores, retrained: Scores, at: tuple[float, ...] = (0.01, 0.05)) -> Attack:
    """The likelihood-ratio attack on unlearning.

    For each record two Gaussians are fitted to the scores of the other models, those that trained
    on it and unlearned it and those that never saw it; the log-likelihood ratio of the model under
    attack is the attacker's guess. Thresholds are common to all records.

    Source: Hayes et al. 2024, "Inexact unlearning needs more careful evaluations" (arXiv
    2403.01218), after Carlini et al. 2022 (arXiv 2112.03570).

    **Assumes** an attacker who knows the data, the method and the seeds' distribution. **Voids**:
    with ten models a Gaussian is a guess; a rate at 1 % needs tens to hundreds of models. An AUC
    near 0.5 says that this attacker fails, not that all do.

    Args:
        unlearned: Shape (models, records), three models or more.
        retrained: Shape (other models, records), three or more.
        at: False-positive rates.
    """
    members = _ratios(unlearned, unlearned, retrained, is_left=True)
    others = _ratios(retrained, unlearned, retrained, is_left=False)
    limits = np.quantile(others, [1 - rate for rate in at], method="higher")
    wins = stats.mannwhitneyu(members, others, method="asymptotic").statistic
    return Attack(
        auc=float(wins / (len(members) * len(others))),
        rates={
            rate: float(np.mean(members > limit)) for rate, limit in zip(at, limits, strict=True)
        },
    )


def _ratios(attacked: Scores, unlearned: Scores, retrained: Scores, *, is_left: bool) -> Scores:
    """Log-likelihood ratios, each model judged by Gaussians that were fitted without it."""
    found = []
    for row, scores in enumerate(attacked):
        left = np.delete(unlearned, row, axis=0) if is_left else unlearned
        right = retrained if is_left else np.delete(retrained, row, axis=0)
        found.append(_log_density(scores, left) - _log_density(scores, right))
    return np.concatenate(found)


def _log_density(scores: Scores, models: Scores) -> Scores:
    spread = np.maximum(models.std(axis=0, ddof=1), _TINY)
    density: Scores = -(((scores - models.mean(axis=0)) / spread) ** 2) / 2 - np.log(spread)
    return density


@dataclass(frozen=True, kw_only=True)
class Null:
    """What a measure says of two families that do not differ but by chance.

    Attributes:
        mean: Over random splits.
        low: 5 % of the splits are below.
        high: 5 % of the splits are above.
    """

    mean: float
    low: float
    high: float


def null_of(
    measure: Callable[[Scores, Scores], float],
    retrained: Scores,
    *,
    splits: int = 100,
    seed: int = 0,
) -> Null:
    """The floor of a measure: retrained models against retrained models.

    The models are split at random into two halves, again and again.

    **Assumes** that all rows come from the same distribution: independent retrains and exact
    replays, which are retrains of their seeds. **Voids**: the splits share models, so the band is
    that of this sample of models.

    Args:
        measure: Of two families.
        retrained: Shape (2N, records): halves of the size that the measure is otherwise taken at.
        splits: How many.
        seed: Of the splits.
    """
    rng, half = np.random.default_rng(seed), len(retrained) // 2
    values = []
    for _ in range(splits):
        order = rng.permutation(len(retrained))
        values.append(measure(retrained[order[:half]], retrained[order[half : 2 * half]]))
    low, high = np.quantile(values, [LEVEL, 1 - LEVEL])
    return Null(mean=float(np.mean(values)), low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Whether one model could be a retrained one, by its scores of the erased records.

    Attributes:
        is_mean_inside: The mean score lies in the range that a further retrained model would.
        is_pattern_inside: So does the scatter of the single records around their means.
        z: The distance of the mean score from that of retrained models, in their deviations.
    """

    is_mean_inside: bool
    is_pattern_inside: bool
    z: float

    @property
    def agrees(self) -> bool:
        """Whether neither tells the model from a retrained one."""
        return self.is_mean_inside and self.is_pattern_inside


def agreement(model: Scores, reference: Scores) -> Agreement:
    """Judge one model by models that never saw the records.

    Two tests at 2.5 % each. The mean score over the records has to lie in the two-sided prediction
    interval (Student's t) of the reference's. The root mean square of the records' deviations, each
    in units of the reference's, has to lie below the one-sided limit of the reference's own, which
    are taken leaving one out (Student's t on the logarithm).

    **Assumes** normal scores over seeds; an exact replay is called different in 5 % of cases at
    most. **Voids**: with few models the intervals are wide, so that much agrees; look at how many
    of the original models, which saw the records, agree too.

    Args:
        model: Shape (records,).
        reference: Shape (models, records), four models or more, none of the model's own seed.
    """
    means, own = reference.mean(axis=1), float(model.mean())
    inside = _is_inside(own, means, LEVEL / 4)
    scatter = np.log([_scatter(row, _without(reference, at)) for at, row in enumerate(reference)])
    own_scatter = float(np.log(_scatter(model, reference)))
    wide = max(float(means.std(ddof=1)), _TINY)
    return Agreement(
        is_mean_inside=inside,
        is_pattern_inside=own_scatter <= _upper(scatter, LEVEL / 2),
        z=(own - float(means.mean())) / wide,
    )


def _without(models: Scores, row: int) -> Scores:
    return np.delete(models, row, axis=0)


def _scatter(model: Scores, reference: Scores) -> float:
    apart = _in_deviations(model - reference.mean(axis=0), reference.std(axis=0, ddof=1))
    return float(np.sqrt(np.mean(apart**2))) + _TINY


def _is_inside(value: float, known: Scores, tail: float) -> bool:
    return -_upper(-known, tail) <= value <= _upper(known, tail)


def _upper(known: Scores, tail: float) -> float:
    """The one-sided prediction limit for one more value of a normal sample."""
    width = stats.t.ppf(1 - tail, len(known) - 1) * np.sqrt(1 + 1 / len(known))
    return float(known.mean() + width * known.std(ddof=1))
