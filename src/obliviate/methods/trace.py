"""The trace of an erasure's records: followed while blocks are replayed, then damped by the stitch.

With e the last replayed block and u = P_e - Q_e, the stitched states are P_k - ρ·u for k > e. The
share ρ is measured, not guessed: it is the one at which the erased records end where the fading
curve says that replaying on would have left them. Where they cannot be read any more, or have left
no trace to measure, ρ is what the law says without them: (lag of e / lag of the end)^h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from obliviate.ledger.outcome import Stitch
from obliviate.methods.fading import (
    Exponent,
    Gap,
    faded_share,
    fit_fading,
)
from obliviate.methods.method import Decision
from obliviate.methods.scorer import Scorer
from obliviate.methods.scores import mean_score

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from obliviate.chain.chain import Chain
    from obliviate.ledger import ErasureFacts
    from obliviate.methods.calibrated import Calibrated
    from obliviate.methods.fading import Fading, Prediction
    from obliviate.methods.stitch import Result, Stitching
    from obliviate.recipe.parts import Places
    from obliviate.states.update import State
    from obliviate.training.protocol import BlockTrainer

FEWEST_CONTROLS = 8
LEAST_LAG = 4  # three gaps to fit the law to: with two, the content of one block tells too much
_MEASURABLE = 2.0  # a trace is one from so many standard errors on


@dataclass
class Trace:
    """What is known of the trace, block after replayed block.

    Attributes:
        places: The blocks of all records of the request.
        scored: Those of the records that can be scored.
        prior: What was believed of the exponent before.
        memory: The functional residual memory at each replayed block, over all records reached so
            far; None where none of them can be scored.
        control_memory: The same of the controls.
        noise: How far two trainings have drifted apart on one control record: root mean square of
            its gap at the last block.
        common: What the controls' gaps have in common at the last block, as a size.
    """

    scorer: Scorer
    places: Places
    scored: Places
    prior: Exponent
    memory: list[float | None] = field(default_factory=list)
    control_memory: list[float | None] = field(default_factory=list)
    noise: float = 0.0
    common: float = 0.0
    gaps: list[Gap] = field(default_factory=list)

    def follow(
        self, block: int, first: int, original: State, replayed: State, shared: State | None = None
    ) -> None:
        """Measure the gap between P_k and Q_k.

        Args:
            block: k.
            first: The first block of the segment; the traces of earlier ones are stitched already,
                and what is measured of them says nothing new.
            original: P_k.
            replayed: Q_k.
            shared: P_k without what the erased records alone have trained, which does not fade and
                is no part of the law; where that is not P_k.
        """
        before, controls_before = self.scorer.scores(original)
        after, controls_after = self.scorer.scores(replayed)
        gaps, controls = before - after, controls_before - controls_after
        self.noise = float(np.sqrt(np.mean(controls**2))) if len(controls) else 0.0
        self.control_memory.append(mean_score(controls))
        self.common = abs(self.control_memory[-1] or 0.0)
        holding = self.scored.held(block)
        self.memory.append(mean_score(gaps[holding > 0]))
        if shared is not None:
            gaps = self.scorer.scores(shared)[0] - after
        # a record that is trained on once more leaves a new trace: the old gaps say nothing of it
        self.gaps = [gap for gap in self.gaps if gap.block in holding]
        for held in np.unique(holding[(holding >= first) & (holding < block)]).tolist():
            own = gaps[holding == held]
            self.gaps.append(
                Gap(
                    block=held,
                    count=len(own),
                    lag=block - held + 1,
                    value=float(own.mean()),
                    noise=_error_of_mean(controls, len(own)),
                )
            )

    def decide(self, method: Calibrated, last: int, until: int) -> Decision:
        """Whether enough has been replayed to stitch the blocks up to `until`."""
        lag = self._lag(last)
        if (reason := self._reason_to_go_on(lag, until - last)) is not None:
            return Decision(is_final=False, reason=reason)
        if not len(self.scored.counts):
            reason = f"lag {lag}: the erased records cannot be read any more"
            return Decision(is_final=True, reason=reason)
        fading = self.fading()
        if fading is None:
            return Decision(is_final=False, reason=f"lag {lag}: the scores are not finite")
        if not self.is_measurable():
            reason = f"lag {lag}: no trace is left that stands out from the drift of two trainings"
            return Decision(is_final=True, reason=reason)
        return method.decide(self.gaps, fading, until=until, unit=self.noise)

    def _reason_to_go_on(self, lag: int, saved: int) -> str | None:
        """Why stopping here is out of the question, whatever was measured."""
        controls = len(self.scorer.controls.ids)
        if controls < FEWEST_CONTROLS:
            return f"only {controls} records are left to measure the drift on"
        if lag < LEAST_LAG:
            return f"lag {lag}: too early to say"
        if saved < lag:
            return f"lag {lag}: a stitch would save less than was replayed already"
        return None

    def fading(self) -> Fading | None:
        """The law, as fitted so far; None where nothing finite was measured."""
        values = [(gap.value, gap.noise) for gap in self.gaps]
        return fit_fading(self.gaps, self.prior) if values and np.isfinite(values).all() else None

    def is_measurable(self) -> bool:
        """Whether the last gaps stand out from the noise."""
        latest = self._latest()
        return latest is not None and abs(latest[0]) > _MEASURABLE * latest[1]

    def _latest(self) -> tuple[float, float] | None:
        """The last mean gap, and its noise: the records' own, and what all records share."""
        latest = {gap.block: gap for gap in self.gaps}.values()
        if not latest:
            return None
        count = sum(gap.count for gap in latest)
        value = sum(gap.count * gap.value for gap in latest) / count
        own = sum((gap.count * gap.noise) ** 2 for gap in latest) ** 0.5 / count
        return value, math.hypot(own, self.common)

    def _lag(self, last: int) -> int:
        return last - int(self.places.held(last).max()) + 1

    def stitch(
        self, last: int, until: int, stitching: Stitching
    ) -> tuple[Stitch, dict[str, Tensor]]:
        """Choose ρ and check the result; return both.

        Args:
            last: The last replayed block, e.
            until: The last block to be stitched.
            stitching: P_k - ρ·u at that block, for any ρ.
        """
        fading = self.fading() if self.is_measurable() else None
        exponent = fading.exponent if fading else Exponent()
        counts = _counts(self.places.held(last))
        rho = faded_share(counts, last, until, exponent.mean)
        prediction = None
        if fading is not None:
            _, drift = self._latest() or (0.0, 0.0)
            prediction = fading.at(until, drift)
            rho = stitching.share(prediction, rho)
        result = stitching.result(rho)
        faults = [*self._erased_faults(prediction, result), *self._control_faults(result)]
        stitch = Stitch(
            after=last,
            until=until,
            rho=rho,
            exponent=exponent.mean,
            exponent_deviation=exponent.deviation,
            predicted=prediction.value if prediction else None,
            low=prediction.low if prediction else None,
            high=prediction.high if prediction else None,
            reached=result.erased,
            control=result.control,
            noise=self.noise,
            has_passed=not faults,
            verdict="; ".join(faults) or self._praise(prediction),
        )
        return stitch, result.state

    def _erased_faults(self, prediction: Prediction | None, result: Result) -> Iterator[str]:
        """What is wrong with the erased records under the stitched state."""
        if result.erased is None:
            return
        if prediction is not None:
            if not prediction.low <= result.erased <= prediction.high:
                yield (
                    f"the stitch takes {result.erased:.2f} off the erased records' scores, "
                    f"{prediction.low:.2f} to {prediction.high:.2f} were predicted"
                )
        elif (value_and_noise := self._latest()) is not None:
            limit = abs(value_and_noise[0]) + _MEASURABLE * value_and_noise[1]
            if not abs(result.erased) <= limit:
                yield (
                    f"the stitch moves the erased records' scores by {result.erased:.2f}, though "
                    f"their trace was {limit:.2f} at most"
                )

    def _control_faults(self, result: Result) -> Iterator[str]:
        """What is wrong with the controls under the stitched state."""
        if result.control is None or not result.control <= self.noise:
            yield (
                f"the stitch takes {result.control or float('nan'):.2f} off the controls' scores, "
                f"more than the control noise of {self.noise:.2f}"
            )

    def _praise(self, prediction: Prediction | None) -> str:
        if prediction is not None:
            return "passed: the erased records end where predicted, the controls keep their scores"
        if len(self.scored.counts):
            return (
                "passed on the controls; the erased records left too small a trace to measure, "
                "so ρ is what the law says without them"
            )
        return (
            "passed on the controls; the erased records could not be read, so ρ is what the law "
            "says without them, and it was not checked on them"
        )


def trace_of(
    trainer: BlockTrainer,
    chain: Chain,
    records: NDArray[np.int64],
    gone: NDArray[np.int64],
    prior: Exponent,
) -> Trace:
    """Read the records of a request and find out how to score them; see `Scorer`.

    Args:
        trainer: Whose recipe and data to use.
        chain: The chain before the erasure.
        records: Those of the request.
        gone: All erased records, those of the request among them.
        prior: What is believed of the exponent.
    """
    scorer = Scorer(trainer, chain.state(chain.length), records, gone)
    return Trace(
        scorer=scorer,
        places=trainer.layout.places(records),
        scored=trainer.layout.places(scorer.erased.ids),
        prior=prior,
    )


def _error_of_mean(controls: NDArray[np.float64], count: int) -> float:
    """What the drift of two trainings does to a mean over some records."""
    return float(controls.std() / np.sqrt(count)) if len(controls) else 0.0


def _counts(holding: NDArray[np.int64]) -> dict[int, int]:
    held, counts = np.unique(holding[holding > 0], return_counts=True)
    return dict(zip(held.tolist(), counts.tolist(), strict=True))


def exponent_of(erasures: Iterable[ErasureFacts]) -> Exponent:
    """What a run's earlier erasures let one believe of the exponent."""
    found = [
        stitch
        for facts in erasures
        if facts.outcome is not None
        for stitch in facts.outcome.stitches
        if stitch.predicted is not None and stitch.has_passed
    ]
    if not found:
        return Exponent()
    last = found[-1]
    assert last.exponent is not None  # noqa: S101 - what is predicted follows from a law
    assert last.exponent_deviation is not None  # noqa: S101
    return Exponent(mean=last.exponent, deviation=last.exponent_deviation).later()
