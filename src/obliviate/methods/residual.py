"""Residual memory: how much of the erased records is still felt, and when to stop replaying.

After the published description of DeepObliviate (He, Meng, Chen, He, Hu 2021, arXiv 2105.06209).
With P_k the chain as
it was trained, Q_k the replay without the erased records, and d the (latest) block that held one:

    V_k  = P_k - P_{k-1}            the update that block k made
    V'_k = Q_k - Q_{k-1}            the update that its replay made
    Δ_k  = ‖V_k - V'_k‖₁            the residual memory of block k

Δ is taken relative to ‖V_d‖₁, so that no threshold depends on the number of parameters. Over the
lag x = k - d + 1 it is modelled as Δ(x) = a·x^(-h) + b, and replaying stops where the model has
flattened: |Δ'(x)| = a·h·x^(-h-1) <= ε.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from obliviate.errors import PUT_BACK, RequestError, RunDamaged, UnknownMethod
from obliviate.options import flag, real, whole
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from obliviate.methods.fading import Fading, Gap

FIT_MIN_LENGTH = 4  # three parameters, a, h and b, and one value more to tell a fit from a miss
DFA_MIN_LENGTH = (
    16  # below this, detrended fluctuation analysis has too few windows to fit a line through
)
LEAST_P_VALUE = 0.001  # below it, the gaps are said not to follow the law
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


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether to stop replaying, and why.

    Attributes:
        is_final: Stop here.
        reason: In words, for reports.
        law: The fit that the decision rests on, where there is one.
    """

    is_final: bool
    reason: str
    law: PowerLaw | None = None


def fixed_stop_of(blocks: Any) -> int | None:
    """The number of blocks of a fixed stop.

    Raises:
        InvalidOption: It is none.
    """
    hint = "give a number of blocks, or None; the affected block itself is one"
    return None if blocks is None else whole(blocks, "blocks", least=1, hint=hint)


def fixed_stop(series: Sequence[float], blocks: int) -> Decision:
    """Stop at a lag that was chosen beforehand."""
    lag = len(series)
    law = fit_power_law(series) if lag >= FIT_MIN_LENGTH else None
    reason = f"lag {lag}: stopped after {blocks} blocks, as was asked for"
    return Decision(is_final=lag >= blocks, reason=reason, law=law)


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Replay to the end: bit-equal to training without the erased records.

    Attributes:
        functional: Measure how the trace fades as a function, too; see `fading`. The
            erased records are read once more for it, before they are erased.
    """

    functional: bool = False
    name = "exact"

    def __post_init__(self) -> None:
        object.__setattr__(self, "functional", flag(self.functional, "functional"))

    def decide(self, series: Sequence[float]) -> Decision:  # noqa: ARG002
        """Never stop before the end."""
        return Decision(is_final=False, reason="exact: replayed to the end of the chain")


@dataclass(frozen=True, kw_only=True)
class DeepObliviate:
    """Replay until the residual memory has flattened, then stitch the rest of training back on.

    Source: He et al. 2021 (arXiv 2105.06209), after the published description.

    **Assumes** that a flat residual memory means a faded trace. **Voids**: nothing is proved of the
    result; it is `approximate` and comes with its curve. Two trainings that differ in one record
    drift apart by themselves, so the curve may flatten, or rise, on drift alone.

    Attributes:
        epsilon: The slope of the fitted curve, relative to the first affected block's update, at
            which replaying stops. Smaller replays more.
        functional: See `Exact`.
        blocks: Stop after exactly so many blocks from the latest affected one on, whatever the
            slope: for research, which compares methods at one cost.
    """

    epsilon: float = 0.02
    functional: bool = False
    blocks: int | None = None
    name = "deepobliviate"

    def __post_init__(self) -> None:
        hint = "it is a slope: a finite number above 0, such as 0.02; smaller replays more"
        epsilon = real(self.epsilon, "epsilon", above=0, hint=hint)
        # plain numbers, whatever was given: they are kept in the ledger, and compared
        object.__setattr__(self, "epsilon", epsilon)
        object.__setattr__(self, "functional", flag(self.functional, "functional"))
        object.__setattr__(self, "blocks", fixed_stop_of(self.blocks))

    def decide(self, series: Sequence[float]) -> Decision:
        """Stop when the slope of the fitted power law at the last lag is at most epsilon.

        Args:
            series: Δ relative to ‖V_d‖₁ at the lags 1, 2, ..., since the latest affected block.
        """
        lag = len(series)
        if self.blocks is not None:
            return fixed_stop(series, self.blocks)
        if lag < FIT_MIN_LENGTH:
            return Decision(is_final=False, reason=f"lag {lag}: too short a series to fit")
        law = fit_power_law(series)
        slope = law.slope(lag)
        if law.a == 0:
            reason = f"lag {lag}: no decay to be seen, what is felt is the drift of two trainings"
            return Decision(is_final=True, reason=reason, law=law)
        is_final = slope <= self.epsilon
        relation = "<=" if is_final else ">"
        reason = f"lag {lag}: slope {slope:.4f} {relation} epsilon {self.epsilon:g}"
        return Decision(is_final=is_final, reason=reason, law=law)


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Replay until it is certain how far the trace would have faded, then stitch just so far.

    The paper's stitch keeps the difference u = P_e - Q_e for ever, though training would have gone
    on fading it, and so over-forgets. Here the result is P_B - ρ·u, with ρ in [0, 1] such that on
    the erased records the model ends where the fading curve (`fading`) says that an exact
    replay would end.

    **Assumes** that the trace fades by a power law, which not every training does. **Voids**:
    nothing is proved of the result; it is `approximate` and comes with both curves, the predicted
    residue and a check. Where the law does not hold, replaying goes on, at worst to the end.

    Attributes:
        tolerance: How long half the interval of the predicted gap may be where replaying stops, in
            units of the control noise: how far two trainings drift apart on one control record.
            Smaller replays more.
        blocks: Stop after exactly so many blocks from the latest affected one on, whatever the
            interval and the check say: for research, which compares methods at one cost.
    """

    tolerance: float = 2.5
    blocks: int | None = None
    functional: ClassVar[bool] = True
    name = "calibrated"

    def __post_init__(self) -> None:
        hint = (
            "it is in units of the control noise: a finite number above 0, such as 2.5; "
            "smaller replays more"
        )
        tolerance = real(self.tolerance, "tolerance", above=0, hint=hint)
        object.__setattr__(self, "tolerance", tolerance)
        object.__setattr__(self, "blocks", fixed_stop_of(self.blocks))

    def decide(self, gaps: Sequence[Gap], fading: Fading, *, until: int, unit: float) -> Decision:
        """Stop when the predicted gap is certain enough.

        Args:
            gaps: What was measured, at lag 2 or later.
            fading: What was fitted to it.
            until: The last block that would be stitched on.
            unit: The control noise, in units of the score.
        """
        from obliviate.methods.fading import is_growing  # noqa: PLC0415 - scipy takes half a second

        lag = min(max(gap.lag for gap in gaps if gap.block == block) for block in fading.counts)
        if is_growing(gaps):
            return Decision(is_final=False, reason=f"lag {lag}: the trace grows instead of fading")
        if fading.p_value < LEAST_P_VALUE:
            reason = f"lag {lag}: the trace follows no power law (p {fading.p_value:.1g})"
            return Decision(is_final=False, reason=reason)
        width = fading.at(until).half_width
        is_final = width <= self.tolerance * unit
        relation = "<=" if is_final else ">"
        reason = (
            f"lag {lag}: the residue is predicted to ±{width:.3f} {relation} tolerance "
            f"{self.tolerance:g} of the control noise {unit:.3f}"
        )
        return Decision(is_final=is_final, reason=reason)


Method = Exact | DeepObliviate | Calibrated
METHODS: dict[str, type[Exact] | type[DeepObliviate] | type[Calibrated]] = {
    Exact.name: Exact,
    DeepObliviate.name: DeepObliviate,
    Calibrated.name: Calibrated,
}


def method_of(method: str | Method, **options: object) -> Method:
    """The method of a name, with its default options; a method is returned as it is.

    Raises:
        UnknownMethod: It is neither.
    """
    if type(method) in METHODS.values():
        return method  # type: ignore[return-value]
    if isinstance(method, str) and method in METHODS:
        return METHODS[method](**options)  # type: ignore[arg-type]
    raise UnknownMethod(
        f"there is no method {shown(method)}",
        hint=f"choose one of {', '.join(map(repr, METHODS))}, or an object such as "
        "ob.Exact(), ob.DeepObliviate(epsilon=0.02) or ob.Calibrated(tolerance=2.5)",
    )


def options_of(method: Method) -> dict[str, object]:
    """A method as the ledger keeps it: its name and the options that are set."""
    given = {name: value for name, value in vars(method).items() if value not in {None, False}}
    return {"name": method.name} | given


def method_from(options: Mapping[str, object]) -> Method:
    """The method that the ledger keeps.

    Raises:
        RunDamaged: There is none of that name, or it has no such options.
    """
    try:
        rest = dict(options)
        return method_of(str(rest.pop("name")), **rest)
    except (KeyError, TypeError, ValueError, RequestError) as error:
        raise RunDamaged(
            f"the ledger keeps a method that cannot be: {shown(options)}", hint=PUT_BACK
        ) from error
