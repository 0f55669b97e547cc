"""The method "deepobliviate": replay until the residual memory has flattened, then stitch.

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
from typing import TYPE_CHECKING, ClassVar

from obliviate.methods.method import Decision, Method, Pursuit, fixed_stop, fixed_stop_of, reach_of
from obliviate.methods.power_law import FIT_MIN_LENGTH, fit_power_law
from obliviate.options import flag, real

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obliviate.methods.method import Context, Progress


@dataclass(frozen=True, kw_only=True)
class DeepObliviate(Method):
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
        back: How many of the last epochs of each record are replayed; what was felt in earlier
            ones has been trained over since. All that the run keeps in full if None.
    """

    epsilon: float = 0.02
    functional: bool = False
    blocks: int | None = None
    back: int | None = None
    name: ClassVar[str] = "deepobliviate"

    def __post_init__(self) -> None:
        hint = "it is a slope: a finite number above 0, such as 0.02; smaller replays more"
        epsilon = real(self.epsilon, "epsilon", above=0, hint=hint)
        # plain numbers, whatever was given: they are kept in the ledger, and compared
        object.__setattr__(self, "epsilon", epsilon)
        object.__setattr__(self, "functional", flag(self.functional, "functional"))
        object.__setattr__(self, "blocks", fixed_stop_of(self.blocks))
        object.__setattr__(self, "back", reach_of(self.back))

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

    def begin(self, erasure: Context) -> Pursuit:  # noqa: ARG002
        """Begin an erasure."""
        return UntilFlat(self)


class UntilFlat(Pursuit):
    """Replays until the residual memory has flattened."""

    def __init__(self, method: DeepObliviate) -> None:
        """Begin; whatever is felt, the method's options decide."""
        self._method = method

    def decide(self, progress: Progress) -> Decision:
        """See `DeepObliviate.decide`."""
        return self._method.decide(progress.series)
