"""Target: how a model that never saw the erased records would score them, read off references.

References are records that were never trained on, and under any state they are scored as such. Two
things are known of an erased record without what training taught of it: the target it came with,
and what the model sees in its input beside that target. So its target is the mean score of the
references nearest to it in both:

- **kind.** A record's target may be its own, or a wrong one, and the two are scored very
  differently by a model that never saw them. References are taken twice: with their own target, and
  with that of another. Which kind an erased record is, is told by the log odds of the best class
  among all but its target, where there is such a thing: what was learned of the record itself moves
  its target's score alone. The share of each kind among the erased records is estimated with it
  (expectation-maximisation, from a prior of one wrong target in ten).
- **neighbours.** Of the references of that kind, and of that target, those nearest in the log odds.

The interval of a mean over n records is conformal: as often as groups of n references, of the same
kinds, differ from their own targets by so much. It rests on one thing, that the erased records
and the references are exchangeable for a model that saw neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import expit, logsumexp
from scipy.stats import gaussian_kde

from obliviate.methods.scores import margins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from obliviate.methods.view import Scores, View

LEVEL = 0.9  # of the intervals
NEIGHBOURS = 30
_PRIOR_SHARE, _PRIOR_RECORDS = 0.1, 1.0  # of records with a wrong target
_ROUNDS = 20
_LEAST_LABELLED = 10  # references of one class, to be a sample of it
_GROUPS = 2000
_LARGEST_ODDS = 20.0
_TINY = 1e-6


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a model that never saw the erased records is expected to score them.

    Attributes:
        each: For each record. Shape (n,).
        low: Lower end of the interval of the mean, of level `LEVEL`.
        high: Upper end.
        around: What is added to a record's target for the interval of its own score, of the same
            level. Lower and upper end.
    """

    each: Scores
    low: float
    high: float
    around: tuple[float, float]

    @property
    def mean(self) -> float:
        """Over the records."""
        return float(self.each.mean())

    @property
    def half_width(self) -> float:
        """Half the length of the interval of the mean."""
        return (self.high - self.low) / 2


def log_odds_of_rest(logits: Scores, labels: NDArray[np.int64]) -> Scores:
    """The log odds of the best class among all but one for each record.

    Args:
        logits: Shape (n, C), C >= 3.
        labels: The class to leave out. Shape (n,).
    """
    rest = np.array(logits, dtype=np.float64)
    rest[np.arange(len(labels)), labels] = -np.inf
    log_best = rest.max(axis=1) - logsumexp(rest, axis=1)
    odds = log_best - np.log1p(-np.minimum(np.exp(log_best), 1 - 1e-12))
    found: Scores = np.clip(odds, -_LARGEST_ODDS, _LARGEST_ODDS)
    return found


def wrong_shares(view: View) -> Scores:
    """How surely each erased record has a wrong target. Shape (n,).

    Take it of the state that has forgotten most: one that has learned a wrong target by heart sees
    it in the input, too.
    """
    if not len(view.mispaired) or not len(view.erased):
        return np.zeros(len(view.erased))
    if view.logits is None or view.labels is None:
        own, wrong, found = view.references, view.mispaired, view.erased
    else:
        (erased, references), (labels, known) = view.logits, view.labels
        asked = np.resize(labels, len(known))
        is_other = asked != known
        own = log_odds_of_rest(references, known)
        wrong = log_odds_of_rest(references[is_other], asked[is_other])
        found = log_odds_of_rest(erased, labels)
    if min(own.std(), wrong.std() if len(wrong) > 1 else 0.0) < _TINY:
        return np.zeros(len(view.erased))
    density_own, density_wrong = (gaussian_kde(each)(found) + _TINY for each in (own, wrong))
    log_ratio = np.log(density_wrong) - np.log(density_own)
    share = _PRIOR_SHARE
    weights = np.zeros(len(found))
    for _ in range(_ROUNDS):
        weights = expit(log_ratio + np.log(share / (1 - share)))
        share = float(weights.sum() + _PRIOR_SHARE * _PRIOR_RECORDS) / (len(found) + _PRIOR_RECORDS)
    return weights


def target_of(view: View, before: View, wrong: Scores) -> Target:
    """The target of the erased records.

    Args:
        view: A state that has forgotten them as far as can be had; the records' neighbours among
            the references are found in what it sees.
        before: The model before. It never saw the references either, and scores them as they are
            to be scored.
        wrong: How surely each record has a wrong target; see `wrong_shares`. Shape (n,).
    """
    kinds = (before.references, before.mispaired)
    if view.logits is None or view.labels is None or before.logits is None:
        means = [float(each.mean()) if len(each) else 0.0 for each in kinds]
        expected = (1 - wrong) * means[0] + wrong * means[1]
        left = [each - mean for each, mean in zip(kinds, means, strict=True)]
        return _with_interval(expected, left, wrong)
    (erased, references), (labels, known) = view.logits, view.labels
    scored, own = torch.from_numpy(before.logits[1]), log_odds_of_rest(references, known)
    expected, found = np.zeros(len(labels)), ([np.empty(0)], [np.empty(0)])
    for label in np.unique(labels):
        asked, mine = np.full(len(known), label), np.flatnonzero(labels == label)
        sought = log_odds_of_rest(erased[mine], labels[mine])
        odds = log_odds_of_rest(references, asked)
        scores = margins(scored, torch.from_numpy(asked)).numpy()
        for kind, is_kind in enumerate((known == label, known != label)):
            ours, theirs = odds[is_kind], scores[is_kind]
            if len(ours) < _LEAST_LABELLED:  # too few of this class: any record with its own
                ours, theirs = own, before.references
            share = wrong[mine] if kind else 1 - wrong[mine]
            expected[mine] += share * _near(sought, ours, theirs)
            found[kind].append(theirs - _near(ours, ours, theirs, is_among=True))
    return _with_interval(expected, [np.concatenate(each) for each in found], wrong)


def _near(sought: Scores, odds: Scores, scores: Scores, *, is_among: bool = False) -> Scores:
    """The mean score of the nearest references for each of some log odds.

    Args:
        sought: Shape (m,).
        odds: Of the references. Shape (r,).
        scores: Of the references. Shape (r,).
        is_among: Whether what is sought are the references themselves: each is left out then.
    """
    apart = np.abs(sought[:, None] - odds[None, :])
    if is_among:
        np.fill_diagonal(apart, np.inf)
    count = min(NEIGHBOURS, len(odds) - is_among)
    nearest = np.argpartition(apart, count - 1, axis=1)[:, :count]
    means: Scores = scores[nearest].mean(axis=1)
    return means


def _with_interval(expected: Scores, left: list[Scores], wrong: Scores) -> Target:
    """The targets with the intervals that references of the same kinds have."""
    rng = np.random.default_rng(0)
    own, other = left[0], left[1] if len(left[1]) else left[0]
    size = len(expected)
    is_other = rng.random((_GROUPS, size)) < wrong
    drawn = np.where(
        is_other,
        other[rng.integers(len(other), size=(_GROUPS, size))],
        own[rng.integers(len(own), size=(_GROUPS, size))],
    )
    # the references that a target is read off are a sample themselves
    sampling = drawn.mean(axis=1) * np.sqrt(1 + size / len(own))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(sampling, [tail, 1 - tail])
    around = np.quantile(drawn, [tail, 1 - tail])
    mean = float(expected.mean())
    return Target(
        each=expected,
        low=mean + float(low),
        high=mean + float(high),
        around=(float(around[0]), float(around[1])),
    )
