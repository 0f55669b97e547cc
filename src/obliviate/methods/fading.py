"""Fading: how the trace of erased records wears off in what the model does.

Two trainings that differ in one record drift apart in their weights for ever, but what the record
taught fades as a function. With score(P_k) how well a state remembers a record (the margin of its
class, or minus its loss), the functional residual memory of the erased records S is

    gap_k = mean over S of score(P_k) - score(Q_k)

and over the lag x = k - n + 1 since the block n that held a record it follows a power law a·x^(-h)
from lag 2 on; lag 1, the record's own block, lies above the law. How fast a trace fades at first
says little about how fast it will fade much later: over log x the exponent wanders about a mean
that unlike models have in common, and soon forgets what it was. So the law is fitted to the lags
that were measured, and from the last of them on the exponent goes back to that mean.

Everything here is numbers: a Bayesian fit on a grid over h, with a Gaussian prior, and for every
block n an amplitude of its own; the wandering is an Ornstein-Uhlenbeck process over log x. The
exponent of detrended fluctuation analysis is another thing and is not used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import chi2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

FIRST_LAG = 2
MISFIT = 0.03  # the law itself is trusted to so much of a gap, however small the noise
LEVEL = 0.8  # of the intervals that are reported
MOST_MEASUREMENTS = 6
_EXPONENTS = np.linspace(0.0, 1.2, 121)
_DRIFT_OF_EXPONENT = 0.05  # how far two requests of one run may differ in their exponents
_MEMORY = 0.4  # over so much of log x the exponent forgets what it was


@dataclass(frozen=True, kw_only=True)
class Exponent:
    """What is believed of the exponent h: a Gaussian, cut off at 0.

    The default is what thirteen settings (convolutional nets, a residual net, an MLP, a
    transformer; 30 to 500 blocks) had in common.
    """

    mean: float = 0.30
    deviation: float = 0.20

    def later(self) -> Exponent:
        """What an erasure that found this lets one believe of the next one of the same run."""
        deviation = (self.deviation**2 + _DRIFT_OF_EXPONENT**2) ** 0.5
        return Exponent(mean=self.mean, deviation=min(deviation, Exponent().deviation))


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The functional residual memory of one block's erased records, at one lag.

    Attributes:
        block: The block that held them.
        count: How many of them were scored.
        lag: Since that block; at least `FIRST_LAG`.
        value: Mean of score(P_k) - score(Q_k).
        noise: Standard error that the drift of two trainings gives it, from control records; the
            records' own, without what they have in common at all lags.
    """

    block: int
    count: int
    lag: int
    value: float
    noise: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Where the law says that a mean gap will be, with an interval of level `LEVEL`."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the length of the interval, in units of the score."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Fading:
    """The posterior of the law, on a grid over h.

    Attributes:
        weights: Of each exponent of the grid; they add up to 1. Shape (H,).
        amplitudes: For each block, mean and deviation of a for each exponent. Shapes (H,).
        counts: How many records each block stands for.
        lags: For each block, the last lag that was measured.
        p_value: Of the best fit's residuals, by their chi-square; 1 where none is to spare.
    """

    weights: NDArray[np.float64]
    amplitudes: Mapping[int, tuple[NDArray[np.float64], NDArray[np.float64]]]
    counts: Mapping[int, int]
    lags: Mapping[int, int]
    p_value: float

    @property
    def exponent(self) -> Exponent:
        """Mean and deviation of h."""
        mean = float(self.weights @ _EXPONENTS)
        return Exponent(
            mean=mean, deviation=float(np.sqrt(self.weights @ (_EXPONENTS - mean) ** 2))
        )

    def at(self, block: int, drift: float = 0.0) -> Prediction:
        """The mean gap over all records after a later block.

        Args:
            block: Which.
            drift: Standard error to add for the drift of two trainings, where not the law but what
                one replay would show is wanted.
        """
        total = sum(self.counts.values())
        mean, variance = np.zeros_like(_EXPONENTS), np.full_like(_EXPONENTS, drift**2)
        wandering = np.zeros_like(_EXPONENTS)
        for held, (amplitude, deviation) in self.amplitudes.items():
            left, unsure = _left(block - held + 1, self.lags[held])
            share = self.counts[held] / total * left
            mean += share * amplitude
            variance += (share * deviation) ** 2
            wandering += share * amplitude * unsure  # one and the same for all blocks
        variance += wandering**2
        low, high = (
            _quantile(level, self.weights, mean, np.sqrt(variance))
            for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
        )
        return Prediction(value=float(self.weights @ mean), low=low, high=high)


def _left(lag: int, measured: int) -> tuple[NDArray[np.float64], float]:
    """What is left of an amplitude of 1 at a lag, for each exponent of the grid, and how surely.

    Up to the last measured lag it is the law. From there on the exponent, which was h, goes back to
    its mean over log x, as the mean of an Ornstein-Uhlenbeck process does.

    Returns:
        The share, shape (H,), and its deviation in units of itself.
    """
    common, start = Exponent(), float(min(lag, measured))
    far = float(np.log(lag / start)) / _MEMORY
    forgotten = 1 - np.exp(-far)
    faded = _MEMORY * (common.mean * far + (_EXPONENTS - common.mean) * forgotten)
    variance = (common.deviation * _MEMORY) ** 2 * (2 * far - 2 * forgotten - forgotten**2)
    return start**-_EXPONENTS * np.exp(-faded), float(np.sqrt(max(variance, 0.0)))


def _quantile(
    level: float,
    weights: NDArray[np.float64],
    means: NDArray[np.float64],
    deviations: NDArray[np.float64],
) -> float:
    """A quantile of a mixture of Gaussians."""
    deviations = np.maximum(deviations, 1e-12)
    low, high = float(np.min(means - 9 * deviations)), float(np.max(means + 9 * deviations))

    def miss(value: float) -> float:
        return float(weights @ ndtr((value - means) / deviations)) - level

    return float(brentq(miss, low, high, xtol=1e-15 * (high - low)))


def fit_fading(gaps: Sequence[Gap], prior: Exponent) -> Fading:
    """Fit a·x^(-h) to gaps: one h for all, a flat prior on the amplitude of every block.

    Given h the law is linear in a, so its posterior is exact; over h a grid is summed up. Every
    gap's variance is that of its noise and of a misfit of the law, a share `MISFIT` of the gap.

    Raises:
        ValueError: No gap, one at a lag below `FIRST_LAG`, or a value that is not finite.
    """
    if not gaps or any(gap.lag < FIRST_LAG for gap in gaps):
        raise ValueError(f"a fit needs gaps at lag {FIRST_LAG} or later, got {list(gaps)}")
    if not np.isfinite([[gap.value, gap.noise] for gap in gaps]).all():
        raise ValueError(f"the gaps are not all finite: {list(gaps)}")
    log_weights = -0.5 * ((_EXPONENTS - prior.mean) / prior.deviation) ** 2
    misfit, amplitudes = np.zeros_like(_EXPONENTS), {}
    for block in sorted({gap.block for gap in gaps}):
        own = [gap for gap in gaps if gap.block == block]
        amplitude, deviation, squares = _amplitude(own)
        amplitudes[block] = amplitude, deviation
        misfit += squares
        log_weights += np.log(deviation)
    log_weights -= misfit / 2
    weights = np.exp(log_weights - log_weights.max())
    spare = len(gaps) - len(amplitudes) - 1
    best = float(misfit[np.argmax(log_weights)])
    return Fading(
        weights=weights / weights.sum(),
        amplitudes=amplitudes,
        counts={gap.block: gap.count for gap in gaps},
        lags={block: max(gap.lag for gap in gaps if gap.block == block) for block in amplitudes},
        p_value=float(chi2.sf(best, spare)) if spare > 0 else 1.0,
    )


def _amplitude(
    gaps: Sequence[Gap],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of a, and the squared residuals, for each exponent of the grid."""
    values = np.array([gap.value for gap in gaps])
    noise = np.maximum([gap.noise for gap in gaps], 1e-9)
    precision = 1 / (noise**2 + (MISFIT * values) ** 2)
    basis = np.array([gap.lag for gap in gaps], dtype=float)[:, None] ** -_EXPONENTS
    total = precision @ basis**2
    amplitude = (precision * values) @ basis / total
    return amplitude, total**-0.5, precision @ (values[:, None] - amplitude * basis) ** 2


def faded_share(counts: Mapping[int, int], last: int, until: int, exponent: float) -> float:
    """What the law says is left at a later block of the gap at an earlier one: the closed form.

    For records of one block it is (lag of last / lag of until)^h.

    Args:
        counts: How many records each block held, none of them after `last`.
        last: The last replayed block.
        until: The later block.
        exponent: h.
    """
    now, then = (
        sum(n * float(block - held + 1) ** -exponent for held, n in counts.items())
        for block in (last, until)
    )
    return float(then / now)


def is_growing(gaps: Sequence[Gap]) -> bool:
    """Whether the gaps are larger at their last lag than at their first.

    That is, beyond the noise and the misfit of the law: a trace may stay as it is for a while.
    """
    growth = variance = 0.0
    for block in {gap.block for gap in gaps}:
        own = sorted((gap for gap in gaps if gap.block == block), key=lambda gap: gap.lag)
        first, last = own[0], own[-1]
        growth += first.count * (abs(last.value) - abs(first.value))
        if len(own) > 1:
            spread = first.noise**2 + last.noise**2 + (MISFIT * first.value) ** 2
            variance += first.count**2 * spread
    return bool(growth > 2 * variance**0.5)


def solved_share(
    measure: Callable[[float], float], target: float, guess: float, accuracy: float
) -> tuple[float, float]:
    """The ρ in [0, 1] where a measured curve through (0, 0) takes a value.

    False position (the Illinois rule), from a first guess; `MOST_MEASUREMENTS` at most.

    Args:
        measure: ρ -> the gap that subtracting ρ·u leaves; about growing with ρ.
        target: The value wanted; where it is below 0, so is the curve.
        guess: Where to begin.
        accuracy: How near is near enough, in units of the score.

    Returns:
        ρ and what was measured there: the nearest, where no ρ gets as far as the target.
    """
    sign = 1.0 if target >= 0 else -1.0
    low, high = (0.0, -abs(target)), (1.0, float("nan"))
    best, at, kept = (0.0, 0.0), min(max(guess, 0.02), 1.0), 0
    for _ in range(MOST_MEASUREMENTS):
        value = measure(at)
        miss = sign * (value - target)
        if abs(miss) < abs(best[1] - target):
            best = (at, value)
        if abs(miss) <= accuracy or not np.isfinite(miss) or (miss < 0 and at == 1.0):
            break
        if miss < 0:
            low, kept = (at, miss), min(kept, 0) - 1
            high = (high[0], high[1] / 2) if kept < -1 else high
        else:
            high, kept = (at, miss), max(kept, 0) + 1
            low = (low[0], low[1] / 2) if kept > 1 else low
        is_bracketed = np.isfinite(high[1])
        step = (high[0] - low[0]) * low[1] / (low[1] - high[1])
        at = float(low[0] + step) if is_bracketed else 1.0
    return best
