"""Aim: stitching so far that the erased records end where references say.

In a chain of epochs the trace of a record is laid anew in every epoch, and what was laid early has
been trained over since. The last few epochs are replayed, in each a few blocks from an affected one
on, and everything between is stitched with the whole difference. What comes out has forgotten about
enough: how much of it is taken, the share ρ of u = P_e - Q_e in P_K - ρ·u, is chosen by measuring.

Under each state the erased records have a score, and a target (`target`); d(ρ) is the mean distance
of the two. ρ is the one that is likeliest, given that d is 0 up to the half width of its interval,
and what the share was in other trainings: 0.45 where all epochs are replayed, since the stitches
between them overdo it, and more from n of E epochs, by (E / n)^1.3, since those that are not
replayed laid the same trace; give or take a factor of 1.6. So it may be more than 1. Where a trace
is large, d decides; where next to nothing was learned of a record alone, whatever ρ does is lost in
chance, and other trainings decide. What references lose of their own scores counts against a ρ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import Polynomial

from obliviate.errors import InvalidOption
from obliviate.ledger.outcome import Ending, Stitch
from obliviate.methods.method import Decision, Pursuit, Stitched, TooShallow
from obliviate.methods.sample import read_from, reference_ids
from obliviate.methods.scorer import Scorer
from obliviate.methods.target import LEVEL, expected_of, target_of, wrong_shares
from obliviate.methods.view import Viewer
from obliviate.states.difference import subtracted
from obliviate.training.references import FEWEST_REFERENCES

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from obliviate.methods.method import Context, Progress, Rest
    from obliviate.methods.sample import PeopledSource
    from obliviate.methods.target import Target
    from obliviate.methods.view import Scores, View
    from obliviate.recipe.recipe import Recipe
    from obliviate.states.update import State
    from obliviate.training.protocol import BlockTrainer

STRIDE = 2  # blocks that are replayed from an affected one on
MOST_REFERENCES = 1024
_LEAST_REFERENCES = 256
_SHARE = 0.45  # the usual ρ where all epochs are replayed
_FASTER = 1.3  # how fast it grows with E / n
_FELT = 10  # of longer chains only so many of the last epochs are felt
_DEVIATION = 0.5  # of the logarithm of ρ
_DEVIATIONS = 1.645  # in half an interval of 90 %
_GRID = np.arange(1, 301) / 100  # the shares that may be taken
_ACCURACY = 0.25  # of half an interval: how far finishing a state may move it
_LOST_ACCURACY, _LOST_SCORE = 0.01, 0.1  # a share of references; a share of their deviation
_SURE = 3.0  # standard errors
_LEAST_LEFT, _MOST_LEFT = 0.5, 3.0  # of what was taken off: how much further epochs may hold
_QUANTILES = 64


@dataclass
class Aim:
    """Where the erased records of one request should end.

    Attributes:
        viewer: What looks at states.
        before: What the model does that the request found.
        groups: Whose each of the erased records is, by number. Shape (n,).
        remark: What there is to say of the references, in words; empty where there is nothing.
        wrong: How surely each erased record has a wrong target, as far as it is known yet.
    """

    viewer: Viewer
    before: View
    groups: NDArray[np.int64]
    remark: str = ""
    wrong: Scores = field(default_factory=lambda: np.empty(0))


def aim_of(
    trainer: BlockTrainer,
    source: PeopledSource,
    *,
    state: State,
    records: NDArray[np.int64],
    gone: NDArray[np.int64],
    replayed: int,
) -> Aim:
    """Read the records of a request and references, and find out how to score them.

    Args:
        trainer: Whose recipe and data to use.
        source: What references are read from.
        state: The model before.
        records: Those of the request.
        gone: All erased records, those of the request among them.
        replayed: About how many records a replay trains on: looking at states may cost a small
            part of that.

    Raises:
        InvalidOption: The references cannot be used.
        InvalidRecipe, TrainingFailed: See `Scorer`.
    """
    scorer = Scorer(trainer, state, records, gone)
    wanted = int(np.clip(0.09 * replayed, _LEAST_REFERENCES, MOST_REFERENCES))
    ids = reference_ids(len(source), trainer.recipe.seed, wanted)
    viewer = _viewer(scorer, source, trainer.recipe, ids)
    before = viewer.view(state)
    is_finite = np.isfinite(before.references)
    if not is_finite.all():
        viewer = _viewer(scorer, source, trainer.recipe, ids[is_finite])  # in batches, as before
        before = viewer.view(state)
    scores = before.references
    if len(scores) < FEWEST_REFERENCES:
        raise InvalidOption(
            f"{len(scores)} references can be scored",
            hint=f"give {FEWEST_REFERENCES} or more: an interval is read off them",
        )
    if not scores.std() > 0:
        raise InvalidOption(
            f"the score is {scores[0]:.3g} for every reference: nothing can be read off it",
            hint="give a Recipe(score=...) that tells records apart, or method='exact'",
        )
    groups = trainer.layout.groups[scorer.erased.ids]
    return Aim(viewer=viewer, before=before, groups=groups, remark=_remark(before))


def _viewer(
    scorer: Scorer, source: PeopledSource, recipe: Recipe, ids: NDArray[np.int64]
) -> Viewer:
    people = None if source.people is None else source.people[ids]
    return Viewer(scorer, read_from(source, recipe, ids), people)


def _remark(view: View) -> str:
    """Whether the references look like other records than those that were trained on."""
    controls, references = view.controls, view.references
    if not len(controls):
        return ""
    above = float((controls[:, None] > references[None, :]).mean())
    if max(above, 1 - above) < 0.9:  # noqa: PLR2004
        return ""
    relation = "higher" if above > 0.5 else "lower"  # noqa: PLR2004
    return (
        f"of pairs of a retained record and a reference the retained one is scored {relation} in "
        f"{max(above, 1 - above):.0%}: the model knows its records by heart, or the references are "
        "of another kind"
    )


class UntilMet(Pursuit):
    """Replays a few blocks in each epoch, and stitches up to the target."""

    def __init__(self, aim: Aim, erasure: Context, stride: int | None) -> None:
        """Begin.

        Args:
            aim: Where the records should end.
            erasure: What is told of it.
            stride: How many blocks are replayed from an affected one on, where that was chosen
                beforehand: then nothing begins further back either.
        """
        self._aim, self._blocks = aim, erasure.blocks
        missed = min(erasure.epochs, _FELT) / min(max(1, erasure.reached), _FELT)
        self._share = _SHARE * missed**_FASTER
        self._stride, self._is_fixed = stride or STRIDE, stride is not None

    def decide(self, progress: Progress) -> Decision:
        """Stop after a fixed number of blocks: what is left is a matter of how much is taken."""
        lag = len(progress.series)
        return Decision(
            is_final=lag >= self._stride,
            reason=f"{self._stride} blocks were replayed from each affected one on",
        )

    def stitch(self, rest: Rest) -> Stitched:
        """Between two replays, take all of the difference; at the end, as much as the target says.

        Raises:
            TooShallow: The records are remembered still, or too much else is lost.
        """
        if rest.until < self._blocks or not len(self._aim.before.erased):
            return super().stitch(rest)
        curve, cost, seen = self._measured(rest)
        width = self._target(seen, seen).half_width
        rho = self._likeliest(curve(_GRID), width, cost(_GRID))
        state, finished, view = self._finished(rest, rho)
        moved = self._apart(seen, view) - float(curve(rho))
        if abs(moved) > _ACCURACY * width:  # finishing moves the scores, whatever ρ is
            rho = self._likeliest(curve(_GRID) + moved, width, cost(_GRID))
            state, finished, view = self._finished(rest, rho)
        target = self._target(seen, view)
        self._end(view, target)
        assert self.ending is not None  # noqa: S101 - it was just said
        report = Stitch(
            after=rest.block,
            until=rest.until,
            rho=rho,
            has_passed=self.ending.is_met,
            verdict=self.ending.verdict,
        )
        return Stitched(rho=rho, state=state, finished=finished, report=report)

    def end(self, state: State) -> None:
        """See `Pursuit.end`: the replay came to the end, and nothing is left to choose."""
        if not len(self._aim.before.erased):
            return
        view = self._view(state)
        self._aim.wrong = wrong_shares(view)
        self._end(view, self._target(view, view))

    def _view(self, state: State) -> View:
        return self._aim.viewer.view(state)

    def _measured(self, rest: Rest) -> tuple[Polynomial, Polynomial, View]:
        """What ρ does, as parabolas through three measured shares, and the view to see by.

        How far above their target the records end, and how much of their mean score the references
        lose. Kinds and neighbours are seen in the largest share.
        """
        views = {0.0: self._aim.before if rest.served is None else self._unfinished(rest, 0.0)}
        views[1.0] = self._unfinished(rest, 1.0)
        self._aim.wrong = wrong_shares(views[1.0])
        third = 2.0 if self._apart(views[1.0], views[1.0]) > 0 else 0.5
        views[third] = self._unfinished(rest, third)
        views = {share: view for share, view in views.items() if view.is_finite}
        seen = views[max(views)]
        self._aim.wrong = wrong_shares(seen)
        distances = [self._apart(seen, view) for view in views.values()]
        kept = views[0.0].references.mean()
        losses = [float(kept - view.references.mean()) for view in views.values()]
        curve, cost = (
            Polynomial.fit(list(views), each, deg=len(views) - 1) for each in (distances, losses)
        )
        return curve, cost, seen

    def _apart(self, seen: View, now: View) -> float:
        """How far above their target the records are scored."""
        aim = self._aim
        return float(now.erased.mean()) - expected_of(seen, aim.before, now, aim.wrong)

    def _target(self, seen: View, now: View) -> Target:
        aim = self._aim
        return target_of(seen, aim.before, now, aim.wrong, aim.groups)

    def _unfinished(self, rest: Rest, share: float) -> View:
        return self._view(subtracted(rest.original, rest.difference, share))

    def _finished(
        self, rest: Rest, rho: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], View]:
        state = subtracted(rest.original, rest.difference, rho)
        finished = rest.finish(state)
        return state, finished, self._view(finished)

    def _likeliest(self, apart: Scores, width: float, lost: Scores) -> float:
        """The ρ of the grid that is likeliest, and costs others least.

        Args:
            apart: How far above the target the records end. Shape (shares,).
            width: Half the interval of the target.
            lost: How much of their mean score the references lose. Shape (shares,).
        """
        misses = (_DEVIATIONS * apart / max(width, 1e-9)) ** 2
        if self._aim.before.logits is None:  # they may be of another kind than any reference is
            misses = np.log1p(misses)
        unusual = (np.log(_GRID / self._share) / _DEVIATION) ** 2
        spread = _LOST_SCORE * float(self._aim.before.references.std())
        return float(_GRID[np.argmin(misses + unusual + (np.maximum(lost, 0) / spread) ** 2)])

    def _end(self, view: View, target: Target) -> None:
        """Say where the records ended; ask for more where that is not good enough."""
        faults = [*self._faults(view, target)]
        self.ending = ending_of(self._aim, view, target, faults)
        if faults and not self._is_fixed:
            raise TooShallow("; ".join(faults))

    def _faults(self, view: View, target: Target) -> list[str]:
        faults = lost_elsewhere(self._aim.before, view)
        if is_remembered(self._aim.before, view, target):
            score = float(view.erased.mean())
            faults.append(
                f"the erased records are still remembered: they score {score:.2f} where "
                f"{target.mean:.2f} ({target.low:.2f} to {target.high:.2f}) was expected"
            )
        return faults


def is_remembered(before: View, after: View, target: Target) -> bool:
    """Whether the erased records end above their target because something of them is left.

    They may be easier than any reference. Then next to nothing was taken off their scores, beside
    what they lie above the target by, or no more than chance takes off.
    """
    above = float(after.erased.mean()) - target.mean
    if not float(after.erased.mean()) > target.high:
        return False
    drift = before.controls - after.controls
    taken = float((before.erased - after.erased).mean())
    noise = 0.0
    if len(drift):
        taken -= float(drift.mean())
        noise = float(drift.std()) * np.sqrt(1 / len(after.erased) + 1 / len(drift))
    return taken > _SURE * noise and _LEAST_LEFT * taken < above <= _MOST_LEFT * taken


def lost_elsewhere(before: View, after: View) -> list[str]:
    """What a state has lost elsewhere, in words.

    A classifier of three classes or more is judged on references: they are a test set. Of others
    the retained records are asked, since references may be like the erased ones, and lose their
    score with them.
    """
    if before.logits is not None and after.logits is not None and before.labels is not None:
        was, now = (
            each.logits[1].argmax(axis=1) == before.labels[1]  # type: ignore[index]
            for each in (before, after)
        )
        lost = float(was.mean() - now.mean())
        noise = float(np.sqrt((was != now).sum())) / len(was)
        allowed = _LOST_ACCURACY + 2 * noise
        if lost > allowed:
            return [f"the accuracy on references fell from {was.mean():.1%} to {now.mean():.1%}"]
        return []
    apart = before.controls - after.controls
    if not len(apart):
        return []
    allowed = _LOST_SCORE * float(before.references.std())
    allowed += 2 * float(apart.std()) / np.sqrt(len(apart))
    if not float(apart.mean()) <= allowed:
        return [f"retained records lost {apart.mean():.3g} of their score"]
    return []


def ending_of(aim: Aim, view: View, target: Target, faults: list[str]) -> Ending:
    """Where the records ended, for whoever reads the answer."""
    score, before = float(view.erased.mean()), aim.before
    apart = view.erased - target.each
    is_inside = (apart >= target.around[0]) & (apart <= target.around[1])
    steps = np.linspace(0, 1, _QUANTILES + 2)[1:-1]
    spread = (target.each[:, None] + np.array(target.scatter)[None, :]).ravel()
    accuracies = (before.accuracy, view.accuracy)
    verdict = "; ".join(faults) or _praise(score, target)
    return Ending(
        records=len(view.erased),
        references=len(view.references),
        level=LEVEL,
        before=float(before.erased.mean()),
        target=target.mean,
        low=target.low,
        high=target.high,
        reached=score,
        inside=float(is_inside.mean()),
        wrong=float(aim.wrong.mean()),
        reference=(float(before.references.mean()), float(view.references.mean())),
        accuracy=None if None in accuracies else accuracies,  # type: ignore[arg-type]
        is_met=not faults,
        verdict="; ".join(filter(None, (verdict, aim.remark))),
        scores=(_sorted(before.erased), _sorted(view.erased)),
        expected=tuple(np.quantile(spread, steps).tolist()),
    )


def _praise(score: float, target: Target) -> str:
    told = (
        f"the erased records score {score:.2f}, expected of a model that never saw them: "
        f"{target.mean:.2f} ({target.low:.2f} to {target.high:.2f})"
    )
    if score > target.high:
        return f"{told}; what training taught of them is too little for that: they are easier"
    if score < target.low:
        return f"{told}; they are harder than references, or more was taken off than need be"
    return f"met: {told}"


def _sorted(scores: Scores) -> tuple[float, ...]:
    return tuple(np.sort(scores).round(4).tolist())
