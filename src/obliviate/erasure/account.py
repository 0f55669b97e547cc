"""Account: what was done and measured in one erasure, as it goes on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from obliviate.ledger.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from obliviate.ledger import Entry
    from obliviate.ledger.outcome import Ending, Stitch
    from obliviate.methods.method import Decision
    from obliviate.methods.trace import Trace


@dataclass(kw_only=True)
class Account:
    """What is to be said of an erasure.

    Attributes:
        segments: The replayed stretches, as (first, last); a stretch may go on with the next.
        residual_memory: See `Outcome`, as for `stitches`.
        tails: The parts of `Outcome.predicted_tail`.
        trace: What follows the trace as a function, where the method asks for it.
        lengths: ‖V_d‖₁ of each stretch's first block.
        unsound: Why a stitch after some block could not be served.
        remarks: What else there is to say.
    """

    trace: Trace | None = None
    segments: list[tuple[int, int]] = field(default_factory=list)
    residual_memory: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    tails: list[float] = field(default_factory=list)
    stitches: list[Stitch] = field(default_factory=list)
    unsound: dict[int, str] = field(default_factory=dict)
    remarks: set[str] = field(default_factory=set)

    def goes_on(self, first: int) -> bool:
        """Whether a stretch begins where the last one ended, as when a check asked for more."""
        return bool(self.segments) and self.segments[-1][1] == first - 1

    def has_passed(self) -> bool:
        """Whether the last stitch passed the method's own check, where it has one."""
        return not self.stitches or self.stitches[-1].has_passed

    def fail(self, block: int, verdict: str) -> None:
        """Say why what was stitched after a block could not be served."""
        self.unsound[block] = verdict
        self.stitches[-1:] = [
            replace(each, has_passed=False, verdict=verdict) for each in self.stitches[-1:]
        ]

    def estimate_tail(self, stitched: int, lag: int, decision: Decision) -> None:
        """Add up what the fitted curve predicts for so many blocks that were stitched on."""
        if decision.law is not None:
            tail = decision.law.tail(lag, lag + stitched)
            self.tails.append(tail * self.lengths[-1] / self.lengths[0])

    def outcome(
        self,
        result: Entry,
        *,
        digest_before: str | None,
        reason: str,
        seconds: float,
        reproduced: tuple[int, ...],
        ending: Ending | None = None,
        too_shallow: tuple[str, ...] = (),
    ) -> Outcome:
        """What is written down of an erasure, where `result` is the last block of its chain."""
        assert result.digest is not None  # noqa: S101 - block B always has one
        return Outcome(
            guarantee=result.guarantee,
            digest=result.digest,
            digest_before=digest_before,
            segments=merged(self.segments),
            residual_memory=tuple(self.residual_memory),
            stop_reason=reason,
            predicted_tail=sum(self.tails) if self.tails else None,
            functional_memory=tuple(self.trace.memory) if self.trace else (),
            control_memory=tuple(self.trace.control_memory) if self.trace else (),
            stitches=tuple(self.stitches),
            ending=ending,
            too_shallow=too_shallow,
            seconds=seconds,
            reproduced=reproduced,
        )

    def reason(self, decision: Decision, *, has_ended: bool, remarks: Iterable[str]) -> str:
        """Why replaying stopped, and what else there is to say, in words.

        Args:
            decision: The method's last one.
            has_ended: Whether it came to the end of the chain without having asked for it.
            remarks: What else.
        """
        reason = decision.reason
        if has_ended:
            reason = f"the end of the chain was reached ({reason})"
        return "; ".join([reason, *self.in_words(), *remarks])

    def in_words(self) -> Iterator[str]:
        """What there is to say of the stitches, for reports."""
        for block, faults in self.unsound.items():
            yield f"stitched after block {block}, {faults}: so more was replayed"
        yield from sorted(self.remarks - {""})
        if self.trace is None:
            return
        if self.trace.scorer.missing:
            yield f"erased records that could not be read or scored: {self.trace.scorer.missing}"
        for stitch in self.stitches:
            if not stitch.has_passed and stitch.after not in self.unsound:
                yield f"the check failed after block {stitch.after}, so more was replayed"
            elif stitch.has_passed:
                span = f"blocks {stitch.after + 1} to {stitch.until}"
                yield f"{span} stitched with ρ {stitch.rho:.2f}"


def merged(segments: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Segments that follow each other without a gap, as one."""
    joined: list[tuple[int, int]] = []
    for first, last in segments:
        if joined and joined[-1][1] + 1 == first:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return tuple(joined)
