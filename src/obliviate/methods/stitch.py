"""Stitching: putting the later, not replayed part of training back on top of the replayed part.

With e the last replayed block, the paper's result is Q_e + (P_B - P_e), which is P_B - u for the
difference u = P_e - Q_e; the share ρ of it that is taken off is a method's to choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obliviate.methods.fading import solved_share
from obliviate.methods.method import Stitched
from obliviate.methods.scores import mean_score
from obliviate.states.difference import subtracted

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from obliviate.methods.fading import Prediction
    from obliviate.methods.method import Rest
    from obliviate.methods.scorer import Scorer
    from obliviate.states.update import State

_CORRECTIONS = 2
_ACCURACY = 0.25  # ρ is sought until the gap is so near to the target, in half widths


def stitched(rest: Rest, rho: float) -> Stitched:
    """P_B - ρ·u, and the same finished.

    Args:
        rest: P_B, u, and what finishes a state; the tensors of P_B are written into.
        rho: From 0 to 1.
    """
    state = subtracted(rest.original, rest.difference, rho, consume=True)
    return Stitched(rho=rho, state=state, finished=rest.finish(state))


@dataclass(frozen=True, kw_only=True)
class Result:
    """A stitched state, and what it does.

    Attributes:
        state: The state.
        erased: Mean of what it takes off the erased records' scores; None where there are none.
        control: The same of the controls.
    """

    state: dict[str, Tensor]
    erased: float | None
    control: float | None


class Stitching:
    """P_k - ρ·u as a function of ρ."""

    def __init__(
        self,
        scorer: Scorer,
        original: State,
        difference: State,
        finish: Callable[[State], dict[str, Tensor]],
        served: State | None = None,
    ) -> None:
        """Score the original state.

        Args:
            scorer: What to score with.
            original: P_k.
            difference: u.
            finish: What is done to a stitched state before it is used: its buffers.
            served: P_k with what the erased records alone have trained, where that is taken off
                the original: the controls may lose nothing by that either.
        """
        self._scorer, self._finish = scorer, finish
        self._original, self._difference = original, difference
        self._before, self._controls_before = scorer.scores(original)
        if served is not None:
            _, self._controls_before = scorer.scores(served)
        self._results: dict[float, Result] = {}

    def state(self, rho: float) -> dict[str, Tensor]:
        """P_k - ρ·u."""
        return subtracted(self._original, self._difference, rho)

    def gap(self, rho: float) -> float:
        """What taking ρ·u off does to the mean score of the erased records."""
        return float(self._before.mean()) - self._scorer.erased_mean(self.state(rho))

    def result(self, rho: float) -> Result:
        """The finished state."""
        if rho not in self._results:
            state = self._finish(self.state(rho))
            erased, controls = self._scorer.scores(state)
            self._results[rho] = Result(
                state=state,
                erased=mean_score(self._before - erased),
                control=mean_score(self._controls_before - controls),
            )
        return self._results[rho]

    def share(self, prediction: Prediction, guess: float) -> float:
        """The ρ at which the erased records end where predicted.

        Finishing is dear and moves the scores by about the same whatever ρ is, so ρ is sought on
        unfinished states, and where the finished one misses, once more for what it misses by.
        """
        accuracy = _ACCURACY * prediction.half_width
        target = prediction.value
        for _ in range(_CORRECTIONS + 1):
            guess, value = solved_share(self.gap, target, guess, accuracy)
            reached = self.result(guess).erased
            if reached is None or abs(reached - value) <= accuracy:
                break
            target = prediction.value - (reached - value)
        return guess
