"""Outcome: what came of an erasure. Its form in the ledger is known here alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from obliviate.errors import PUT_BACK, RunDamaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
        exponent: h, as fitted or, without a trace to fit it to, as unlike models have in common;
            None where ρ follows from no law.
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
    has_passed: bool
    verdict: str
    exponent: float | None = None
    exponent_deviation: float | None = None
    predicted: float | None = None
    low: float | None = None
    high: float | None = None
    reached: float | None = None
    control: float | None = None
    noise: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Where the erased records ended, beside where a model that never saw them would score them.

    Figures are None in reports where they would be those of a single record.

    Attributes:
        records: How many erased records were scored.
        references: How many records that were never trained on the target was read off.
        level: Of the intervals, such as 0.9.
        before: Mean score of the erased records under the model before.
        target: What the model left is expected to score them on average.
        low: Lower end of its interval.
        high: Upper end.
        reached: What it scores them.
        inside: The share of single records that ended in an interval of their own.
        wrong: The share of records whose target is taken to be a wrong one.
        reference: Mean score of the references, before and after: what was lost elsewhere.
        accuracy: The share of references that are classified rightly, before and after; None of
            what is no classifier, or one of two classes.
        is_met: Whether the records ended at the target or below, and nothing was lost elsewhere.
        verdict: The same in words.
        scores: Of the erased records before and after, sorted.
        expected: What scores such records are expected to have: evenly spaced quantiles.
    """

    records: int
    references: int
    level: float
    before: float | None
    target: float | None
    low: float | None
    high: float | None
    reached: float | None
    inside: float | None
    wrong: float | None
    reference: tuple[float, float]
    accuracy: tuple[float, float] | None
    is_met: bool
    verdict: str
    scores: tuple[tuple[float, ...], tuple[float, ...]]
    expected: tuple[float, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """From what JSON has kept."""
        ending = cls(**values)
        return replace(
            ending,
            reference=_pair(ending.reference),
            accuracy=None if ending.accuracy is None else _pair(ending.accuracy),
            scores=(tuple(ending.scores[0]), tuple(ending.scores[1])),
            expected=tuple(ending.expected),
        )


def _pair(values: Iterable[float]) -> tuple[float, float]:
    before, after = values
    return float(before), float(after)


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
        ending: Where the erased records ended, beside their target; None where the method has none.
        too_shallow: Why replaying began again from further back, in words, each time that it did.
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
    ending: Ending | None = None
    too_shallow: tuple[str, ...] = ()
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
                ending=Ending.from_json(ending) if (ending := values.get("ending")) else None,
                too_shallow=tuple(outcome.too_shallow),
                reproduced=tuple(outcome.reproduced),
            )
        except (TypeError, ValueError) as error:
            raise RunDamaged(
                f"the ledger holds an outcome of an erasure that is none ({error})",
                hint=f"`obliviate verify` says what was changed; {PUT_BACK}",
            ) from error
