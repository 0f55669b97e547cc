"""The law of the residual memory over the lag: Δ(x) = a·x^(-h) + b, and how it is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FIT_MIN_LENGTH = 4  # three parameters, a, h and b, and one value more to tell a fit from a miss
DFA_MIN_LENGTH = (
    16  # below this, detrended fluctuation analysis has too few windows to fit a line through
)
_EXPONENTS = np.geomspace(0.05, 4.0, 80)
_DFA_WINDOWS = np.arange(4, 10)


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """Δ(x) = a·x^(-h) + b over the lag x >= 1, with a >= 0.

    Attributes:
        a: What of the residual memory fades (relative to the first affected block's update).
        h: How fast it fades.
        b: What does not fade: chiefly the drift of two trainings that differ in one record.
    """

    a: float
    h: float
    b: float

    def __call__(self, lag: float) -> float:
        """The residual memory at a lag."""
        return float(self.a * lag**-self.h + self.b)

    def slope(self, lag: float) -> float:
        """|Δ'(x)| = a·h·x^(-h-1): how fast the residual memory still falls at a lag."""
        return float(self.a * self.h * lag ** (-self.h - 1))

    def tail(self, after: int, until: int) -> float:
        """The sum of Δ over the lags after+1..until: about the L1 distance that the stitch leaves.

        It is an estimate and no bound: the slope says when the difference stops changing, not that
        it is gone.
        """
        lags = np.arange(after + 1, until + 1, dtype=float)
        return float(np.sum(np.maximum(self.a * lags**-self.h + self.b, 0.0)))


def fluctuation_exponent(series: NDArray[np.float64]) -> float:
    """The scaling exponent of a series, by detrended fluctuation analysis (Peng et al. 1994)."""
    from MFDFA import MFDFA  # noqa: PLC0415 - and scipy: whoever names a method needs neither

    windows = _DFA_WINDOWS[len(series) // 2 >= _DFA_WINDOWS]
    lags, fluctuations = MFDFA(series, lag=windows, q=2, order=1)
    return float(np.polyfit(np.log(lags), np.log(fluctuations[:, 0]), 1)[0])


def _linear_fit(series: NDArray[np.float64], h: float) -> tuple[float, PowerLaw]:
    basis = np.arange(1, len(series) + 1, dtype=float) ** -h
    centred = basis - basis.mean()
    a = max(0.0, float(centred @ series / (centred @ centred)))
    b = float(series.mean() - a * basis.mean())
    law = PowerLaw(a=a, h=h, b=b)
    return float(np.sum((a * basis + b - series) ** 2)), law


def fit_power_law(series: Sequence[float]) -> PowerLaw:
    """Fit Δ(x) = a·x^(-h) + b to a series over the lags 1, 2, ....

    The exponent h comes from detrended fluctuation analysis once the series is long enough for it
    (`DFA_MIN_LENGTH`), and from least squares before that; a and b by least squares. A series that
    does not fall has a = 0.

    Raises:
        ValueError: Fewer than four values, or a value that is not finite.
    """
    values = np.asarray(series, dtype=float)
    if len(values) < FIT_MIN_LENGTH or not np.isfinite(values).all():
        raise ValueError(f"a fit needs {FIT_MIN_LENGTH} finite values or more, got {list(series)}")
    if len(values) >= DFA_MIN_LENGTH and np.ptp(values) > 0:
        h = fluctuation_exponent(values)
        if np.isfinite(h) and h > 0:
            return _linear_fit(values, h)[1]
    return min((_linear_fit(values, float(h)) for h in _EXPONENTS), key=lambda fit: fit[0])[1]
