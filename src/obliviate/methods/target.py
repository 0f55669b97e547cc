"""Target: how a model that never saw the erased records would score them, read off references.

References are records that were never trained on, and under any state they are scored as such. Two
things are known of an erased record without what training taught of it: the target it came with,
and what the model sees in its input beside that target. So its target is the mean score of the
references nearest to it in both:

- **kind.** A record's target may be its own, or a wrong one, and the two are scored very
  differently by a model that never saw them. References are taken twice: with their own target, and
  with that of another. Which kind an erased record is, is told by its score in a state that has
  forgotten it, and by the log odds of the best class among all but its target: what was learned of
  the record itself moves these less. The share of each kind among the erased records is estimated
  with them (expectation-maximisation, from a prior of one wrong target in ten).
- **neighbours.** Of the references of that kind, and of that target, those nearest in the log odds.

The interval of a mean over n records is as wide as groups of n references, of the same kinds,
differ from their own targets. Records of one person are alike in more than a class: where it is
known whose the references are, a group is made of as many people as the erased records are of, by
the variance between people and within (`scatter`). And it is as wide as is uncertain how much surer
a model without the records is of others: all that is known is that it lies between two states. It
rests on one thing, that the erased people and those of the references are exchangeable for a model
that saw neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import expit, logsumexp
from scipy.stats import gaussian_kde

from obliviate.methods.scatter import Scatter, drawn_means
from obliviate.methods.scores import margins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from obliviate.methods.view import Scores, View

    Residuals = tuple[Scores, NDArray[np.int64]]

LEVEL = 0.9  # of the intervals
NEIGHBOURS = 30
SURER = 0.5
"""How far between two states a model without the records scores others."""
_PRIOR_SHARE, _PRIOR_RECORDS = 0.1, 1.0  # of records with a wrong target
_ROUNDS = 20
_LEAST_LABELLED = 10  # references of one class, to be a sample of it
_STATES = 2  # the model before, and the state
_LEFT_OUT = 5000  # references of all classes that are held against others
_SCATTERED = 19
_LARGEST_ODDS = 20.0
_TINY = 1e-6


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a model that never saw the erased records is expected to score them.

    Attributes:
        each: For each record. Shape (n,).
        low: Lower end of the interval of the mean, of level `LEVEL`.
        high: Upper end.
        scatter: How far such records' own scores lie from their targets: evenly spaced quantiles,
            from the lower to the upper end of an interval of the same level.
    """

    each: Scores
    low: float
    high: float
    scatter: tuple[float, ...]

    @property
    def around(self) -> tuple[float, float]:
        """What is added to a record's target for the interval of its own score."""
        return self.scatter[0], self.scatter[-1]

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
    shares = np.zeros(len(view.erased))
    if not len(view.mispaired) or not len(view.erased):
        return shares
    own, wrong, found = _looks(view)
    try:
        densities = [gaussian_kde(each)(found) + _TINY for each in (own, wrong)]
    except (np.linalg.LinAlgError, ValueError):  # all alike: nothing tells them apart
        return shares
    log_ratio, share = np.log(densities[1]) - np.log(densities[0]), _PRIOR_SHARE
    for _ in range(_ROUNDS):
        shares = expit(log_ratio + np.log(share / (1 - share)))
        seen = float(shares.sum()) + _PRIOR_SHARE * _PRIOR_RECORDS
        share = seen / (len(shares) + _PRIOR_RECORDS)
    return shares


def _looks(view: View) -> tuple[Scores, Scores, Scores]:
    """What tells kinds apart: of references with their own target, with another, and of S.

    The score, and for a classifier the log odds of the best class among all but the target. Shapes
    (looks, r), (looks, r) and (looks, n).
    """
    if view.logits is None or view.labels is None:
        return view.references[None], view.mispaired[None], view.erased[None]
    (erased, references), (labels, known) = view.logits, view.labels
    asked = np.resize(labels, len(known))
    is_other = asked != known
    return (
        np.stack([log_odds_of_rest(references, known), view.references]),
        np.stack(
            [
                log_odds_of_rest(references[is_other], asked[is_other]),
                _margins(references[is_other], asked[is_other]),
            ]
        ),
        np.stack([log_odds_of_rest(erased, labels), view.erased]),
    )


def _margins(logits: Scores, labels: NDArray[np.int64]) -> Scores:
    return margins(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()


def target_of(
    seen: View, before: View, now: View, wrong: Scores, groups: NDArray[np.int64] | None = None
) -> Target:
    """The target of the erased records under a state.

    Args:
        seen: A state that has forgotten them as far as can be had; the records' neighbours among
            the references are found in what it sees.
        before: The model before. It never saw the references either.
        now: The state. Without the records a model is surer of all others, too, and scores
            references further from 0; this one overdoes that, the model before lacks it. So their
            scores lie between the two (`SURER`).
        wrong: How surely each record has a wrong target; see `wrong_shares`. Shape (n,).
        groups: Whose each record is, by number; each somebody's own if None. Shape (n,).
    """
    labels = 1 if seen.labels is None else len(np.unique(seen.labels[0]))
    most = max(_LEAST_LABELLED, _LEFT_OUT // labels)
    expected = np.zeros((_STATES, len(seen.erased)))
    left: tuple[list[Residuals], list[Residuals]] = ([], [])
    for some in _alike(seen, before, now):
        expected[:, some.erased] += some.expected(wrong)
        left[some.is_wrong].append(some.left(most))
    scatters = [Scatter.of(*map(np.concatenate, zip(*each, strict=True))) for each in left if each]
    if groups is None:
        groups = np.arange(len(wrong))
    drawn, alone = drawn_means(scatters, wrong, groups)
    surer = np.random.default_rng(1).random(len(drawn)) - SURER
    drawn = drawn + surer * float((expected[1] - expected[0]).mean())
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    each = _between(*expected)
    mean = float(each.mean())
    return Target(
        each=each,
        low=mean + float(low),
        high=mean + float(high),
        scatter=tuple(np.quantile(alone, np.linspace(tail, 1 - tail, _SCATTERED)).tolist()),
    )


def expected_of(seen: View, before: View, now: View, wrong: Scores) -> float:
    """The mean of that target, without its interval: see `target_of`."""
    total = sum(some.expected(wrong).sum(axis=1) for some in _alike(seen, before, now))
    return float(_between(*total)) / len(wrong)


@dataclass(frozen=True, kw_only=True)
class _Alike:
    """Erased records of one class, and references that are alike in it, of one kind.

    Attributes:
        erased: Which of the erased records. Shape (m,).
        sought: Their log odds. Shape (m,).
        odds: Of the references. Shape (r,).
        scores: Of the references, under the model before and under the state. Shape (2, r).
        people: Whose the references are. Shape (r,).
        is_wrong: Whether it is the kind with a wrong target.
        neighbours: How many of the references a record is held against.
    """

    erased: NDArray[np.int64]
    sought: Scores
    odds: Scores
    scores: Scores
    people: NDArray[np.int64]
    is_wrong: bool
    neighbours: int = NEIGHBOURS

    def expected(self, wrong: Scores) -> Scores:
        """What this kind adds to the targets of the erased records, by both states. Shape (2, m).

        Args:
            wrong: How surely each of all erased records has a wrong target. Shape (n,).
        """
        share = wrong[self.erased] if self.is_wrong else 1 - wrong[self.erased]
        added: Scores = share * self.near(self.sought)
        return added

    def left(self, most: int) -> Residuals:
        """How far some of the references lie from what the others say of them, and whose they are.

        Args:
            most: How many.

        Returns:
            Shapes (k,) and (k,).
        """
        few = self.odds[:most]
        near = self.near(few, people=self.people[: len(few)])
        residuals: Scores = _between(*self.scores[:, : len(few)]) - _between(*near)
        return residuals, self.people[: len(few)]

    def near(self, sought: Scores, people: NDArray[np.int64] | None = None) -> Scores:
        """The mean scores of the nearest references, under both states. Shape (2, k).

        Args:
            sought: Log odds. Shape (k,).
            people: Whose they are, where they are references: hers are left out then. Shape (k,).
        """
        apart = np.abs(sought[:, None] - self.odds[None, :])
        count = min(self.neighbours, len(self.odds))
        if people is not None:
            is_hers = people[:, None] == self.people[None, :]
            apart[is_hers] = np.inf
            count = min(count, len(self.odds) - int(is_hers.sum(axis=1).max(initial=0)))
        nearest = np.argpartition(apart, max(count, 1) - 1, axis=1)[:, : max(count, 1)]
        means: Scores = self.scores[:, nearest].mean(axis=2)
        return means


def _alike(seen: View, before: View, now: View) -> Iterator[_Alike]:
    """The references that are alike, class by class; all of them where there are no classes."""
    own = np.stack([before.references, now.references])
    people = seen.whose
    if seen.logits is None or seen.labels is None or before.logits is None or now.logits is None:
        everybody = np.arange(len(seen.erased))
        wrong = np.stack([before.mispaired, now.mispaired])
        for scores, is_wrong in ((own, False), (wrong, True)):
            if scores.shape[1]:
                yield _Alike(
                    erased=everybody,
                    sought=np.zeros(len(everybody)),
                    odds=np.zeros(scores.shape[1]),
                    scores=scores,
                    people=people,
                    is_wrong=is_wrong,
                    neighbours=scores.shape[1],
                )
        return
    (erased, references), (labels, known) = seen.logits, seen.labels
    own_odds = log_odds_of_rest(references, known)
    for label in np.unique(labels):
        asked, mine = np.full(len(known), label), np.flatnonzero(labels == label)
        sought = log_odds_of_rest(erased[mine], labels[mine])
        odds = log_odds_of_rest(references, asked)
        scores = np.stack([_margins(each[1], asked) for each in (before.logits, now.logits)])
        for is_wrong, is_kind in ((False, known == label), (True, known != label)):
            is_enough = is_kind.sum() >= _LEAST_LABELLED  # else any record with its own class
            yield _Alike(
                erased=mine,
                sought=sought,
                odds=odds[is_kind] if is_enough else own_odds,
                scores=scores[:, is_kind] if is_enough else own,
                people=people[is_kind] if is_enough else people,
                is_wrong=is_wrong,
            )


def _between(before: Scores, now: Scores) -> Scores:
    return before + SURER * (now - before)
