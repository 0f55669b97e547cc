"""Outcome: what came of an erasure. Its form in the ledger is known here alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from obliviate.errors import PUT_BACK, RunDamaged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obliviate.ledger.facts import Guarantee

DESTROYED = (
    "destroyed when the run became exact: what was measured would confirm guesses about the "
    "erased records"
)


@dataclass(frozen=True, kw_only=True)
class Stitch:
    """How the rest of training was put back behind a replay, and what became of it.

    Attributes:
        after: The last replayed block, e.
        until: The last stitched block.
        rho: The share of u that was taken off.
        exponent: h, as fitted or, without a trace to fit it to, as unlike models have in common.
        exponent_deviation: How uncertain h is.
        predicted: The mean gap at `until` that an exact replay is predicted to have: the residue of
            the original model on the erased records. In units of the score; None where unmeasured.
        low: Lower end of its interval, of level `fading.LEVEL`: the law's uncertainty and the drift
            of two trainings, as it was at block e.
        high: Upper end.
        reached: The gap that the stitch has on the erased records.
        control: Mean over the controls of how much the stitch takes off their scores.
        noise: How far two trainings had drifted apart on a control record at block e.
        has_passed: Whether the check found nothing.
        verdict: The check, in words.
    """

    after: int
    until: int
    rho: float
    exponent: float
    exponent_deviation: float
    predicted: float | None
    low: float | None
    high: float | None
    reached: float | None
    control: float | None
    noise: float
    has_passed: bool
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of an erasure.

    Once the run is exact again, only what was done is kept: numbers that were computed from the
    states before an erasure confirm guesses, since whoever trains once for each guess finds the one
    that gives the same number.

    Attributes:
        stop_reason: Why replaying stopped, in words; of a failed erasure, why it failed.
        guarantee: "exact": bit for bit what training without the erased records gives;
            "approximate": nothing is proved by itself. None where it failed.
        digest: sha256 of the state of the model that it left, in hex; None once another erasure
            has replaced that state and the run is exact.
        digest_before: Of the model before it.
        segments: The replayed blocks, as (first, last).
        residual_memory: One float for each replayed block: Δ_k relative to ‖V_d‖₁ of the first
            block of its segment. NaN where an exact replay found the original update lost.
        predicted_tail: What the fitted curves add up to over the stitched blocks, relative to
            ‖V_d‖₁ of the first segment: an estimate of the L1 distance to the exact replay, and
            no bound. None where nothing was stitched.
        functional_memory: Mean of score(P_k) - score(Q_k) over the erased records, one for each
            replayed block: how much better the model before still remembered them. Empty where the
            method does not measure it, None where the records could not be scored.
        control_memory: The same over control records, retained ones of the same blocks.
        stitches: How each stretch of blocks was put back, where ρ was chosen.
        seconds: Until the new model was in place.
        reproduced: Blocks that were trained again, as they are stored, before the result was called
            exact; 0 is the initial state. Empty where it is not exact.
    """

    stop_reason: str
    guarantee: Guarantee | None = None
    digest: str | None = None
    digest_before: str | None = None
    segments: tuple[tuple[int, int], ...] = ()
    residual_memory: tuple[float, ...] = ()
    predicted_tail: float | None = None
    functional_memory: tuple[float | None, ...] = ()
    control_memory: tuple[float | None, ...] = ()
    stitches: tuple[Stitch, ...] = ()
    seconds: float = 0.0
    reproduced: tuple[int, ...] = ()

    @property
    def replayed(self) -> tuple[int, ...]:
        """The blocks that were trained on again, in order."""
        return tuple(block for first, last in self.segments for block in range(first, last + 1))

    @property
    def blocks_replayed(self) -> int:
        """How many blocks were trained on again."""
        return len(self.replayed)

    def lasting(self, digest: str | None, *, is_exact: bool) -> Outcome:
        """What is kept of it once the run is exact.

        Args:
            digest: Of the run's model now.
            is_exact: Whether the method always replays to the end, whoever is erased: then the
                reason why it stopped tells nothing of them.
        """
        return Outcome(
            stop_reason=self.stop_reason if is_exact else DESTROYED,
            guarantee=self.guarantee,
            digest=digest if self.digest == digest else None,
            segments=self.segments,
            seconds=self.seconds,
            reproduced=self.reproduced,
        )

    def to_json(self) -> dict[str, Any]:
        """As what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """From what `to_json` gave and JSON has kept.

        Raises:
            RunDamaged: It is nothing of the kind.
        """
        try:
            outcome = cls(**values)
            return replace(
                outcome,
                segments=tuple((int(first), int(last)) for first, last in outcome.segments),
                residual_memory=tuple(outcome.residual_memory),
                functional_memory=tuple(outcome.functional_memory),
                control_memory=tuple(outcome.control_memory),
                stitches=tuple(Stitch(**each) for each in values.get("stitches", ())),
                reproduced=tuple(outcome.reproduced),
            )
        except (TypeError, ValueError) as error:
            raise RunDamaged(
                f"the ledger holds an outcome of an erasure that is none ({error})",
                hint=f"`obliviate verify` says what was changed; {PUT_BACK}",
            ) from error
