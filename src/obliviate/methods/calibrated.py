"""The method "calibrated": stop when the trace can be foretold, and stitch just so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from obliviate.methods.method import (
    Decision,
    Method,
    Pursuit,
    Stitched,
    fixed_stop,
    fixed_stop_of,
    reach_of,
)
from obliviate.options import real
from obliviate.recipe.parts import USUAL_REACH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obliviate.methods.fading import Fading, Gap
    from obliviate.methods.method import Context, Progress, Rest
    from obliviate.methods.trace import Trace

LEAST_P_VALUE = 0.001  # below it, the gaps are said not to follow the law


@dataclass(frozen=True, kw_only=True)
class Calibrated(Method):
    """Stitch just so far as the erased records end where they would have without training on them.

    In a **chain of epochs**, with references: replay two blocks from each affected one on in the
    last eight epochs, and take off as much of u = P_e - Q_e as brings the erased records to the
    score that a model would give them which never saw them, read off records that were never
    trained on (`aim`, `target`). Where they are still remembered then, or too much is lost
    elsewhere, the replay begins twice as far back, and is exact at last.

    In **one pass over the blocks**, or without references, by a law. The paper's stitch keeps u for
    ever, though training would have gone on fading it, and so over-forgets. Here the result is
    P_B - ρ·u, with ρ in [0, 1] such that on the erased records the model ends where the fading
    curve (`fading`) says that an exact replay would end.

    **Assumes** that a model which never saw the erased records scores them as it does references of
    their kind; of a law, that the trace fades by a power law, which not every training does.
    **Voids**: nothing is proved of the result; it is `approximate` and comes with its target or
    both curves, an interval and a check. What does not hold is replayed further.

    Attributes:
        tolerance: How long half the interval of the predicted gap may be where replaying stops, in
            units of the control noise: how far two trainings drift apart on one control record.
            Smaller replays more. Of the law alone.
        blocks: Stop after exactly so many blocks from the latest affected one on, whatever the
            interval and the check say: for research, which compares methods at one cost.
        back: How many of the last epochs of each record are replayed to begin with; as many as are
            kept in full, eight at most, if None.
    """

    tolerance: float = 2.5
    blocks: int | None = None
    back: int | None = None
    functional: ClassVar[bool] = True
    name: ClassVar[str] = "calibrated"
    checks: ClassVar[bool] = True
    aims: ClassVar[bool] = True
    usual_reach: ClassVar[int | None] = USUAL_REACH

    def __post_init__(self) -> None:
        hint = (
            "it is in units of the control noise: a finite number above 0, such as 2.5; "
            "smaller replays more"
        )
        tolerance = real(self.tolerance, "tolerance", above=0, hint=hint)
        object.__setattr__(self, "tolerance", tolerance)
        object.__setattr__(self, "blocks", fixed_stop_of(self.blocks))
        object.__setattr__(self, "back", reach_of(self.back))

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

    def further_back(self, kept: int) -> Method | None:
        """From twice as many epochs back, as far as they are kept."""
        back = self.back or self.usual_reach or 1
        return replace(self, back=min(2 * back, kept)) if back < kept else None

    def begin(self, erasure: Context) -> Pursuit:
        """Begin an erasure."""
        if erasure.aim is not None:
            from obliviate.methods.aim import UntilMet  # noqa: PLC0415 - it needs torch

            return UntilMet(erasure.aim, erasure, self.blocks)
        assert erasure.trace is not None  # noqa: S101 - the method asks for one
        return UntilCertain(self, erasure.trace)


class UntilCertain(Pursuit):
    """Replays until it is certain how far the trace would have faded."""

    def __init__(self, method: Calibrated, trace: Trace) -> None:
        """Begin, with the trace of the erased records."""
        self._method, self._trace = method, trace

    def decide(self, progress: Progress) -> Decision:
        """See `Calibrated.decide`."""
        if self._method.blocks is not None:
            return fixed_stop(progress.series, self._method.blocks)
        return self._trace.decide(self._method, progress.block, progress.until)

    def stitch(self, rest: Rest) -> Stitched:
        """Choose ρ so that the erased records end where the law says, and check the result."""
        from obliviate.methods.stitch import Stitching  # noqa: PLC0415 - it needs torch

        stitching = Stitching(
            self._trace.scorer, rest.original, rest.difference, rest.finish, rest.served
        )
        report, finished = self._trace.stitch(rest.block, rest.until, stitching)
        state = stitching.state(report.rho)
        return Stitched(rho=report.rho, state=state, finished=finished, report=report)
