"""The contract of a method: how a replay is judged, and how the rest of training is put back on.

A method is a frozen dataclass; its fields are its options, the same in Python, in the ledger, on
the command line and in the laboratory. For each erasure it begins a pursuit. After every replayed
block the pursuit decides whether to go on; where it stops, it says how the blocks behind are
stitched on. What a stitch leaves is judged by the loop, whatever the method thinks of it: if it
cannot be served, more is replayed, and the pursuit is asked again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from obliviate.methods.power_law import FIT_MIN_LENGTH, fit_power_law
from obliviate.options import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from obliviate.ledger.outcome import Ending, Stitch
    from obliviate.methods.aim import Aim
    from obliviate.methods.power_law import PowerLaw
    from obliviate.methods.trace import Trace
    from obliviate.states.update import State


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


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a method is told of an erasure before its first block is replayed.

    Attributes:
        affected: The blocks that hold erased records, ascending.
        blocks: The last block of the chain.
        epochs: How many epochs the chain has.
        reached: In how many of them the affected blocks lie.
        trace: What follows the trace as a function, where the method asks for it.
        aim: What knows where the records should end, where the run has references.
    """

    affected: tuple[int, ...]
    blocks: int
    epochs: int = 1
    reached: int = 1
    trace: Trace | None = None
    aim: Aim | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a replay has come.

    Attributes:
        series: Δ relative to ‖V_d‖₁ at the lags 1, 2, ..., since the latest affected block.
        block: The last replayed block, e.
        until: The last block that would be stitched on, if replaying stopped here.
    """

    series: Sequence[float]
    block: int
    until: int


@dataclass(frozen=True, kw_only=True)
class Rest:
    """What is left of training where replaying stopped.

    Attributes:
        block: The last replayed block, e.
        until: The last block to be stitched on, B.
        original: P_B, without what the erased records alone have trained.
        difference: u = P_e - Q_e.
        finish: What is done to a stitched state before it is used: its buffers.
        served: P_B as it is served now, where that is not `original`.
    """

    block: int
    until: int
    original: State
    difference: State
    finish: Callable[[State], dict[str, Tensor]]
    served: State | None = None


@dataclass(frozen=True, kw_only=True)
class Stitched:
    """A stretch of training that was put back on.

    Attributes:
        rho: The share of u that was taken off; it may be more than 1.
        state: P_B - ρ·u.
        finished: The same as it is served.
        report: How it was done and checked, for whoever reads the answer.
    """

    rho: float
    state: dict[str, Tensor]
    finished: dict[str, Tensor]
    report: Stitch | None = None


class TooShallow(Exception):
    """A method asks for the replay to begin further back; its argument says why."""


class Pursuit(ABC):
    """One erasure, as a method follows it.

    Attributes:
        ending: Where the erased records ended, for a method that has a target for them.
    """

    ending: Ending | None = None

    @abstractmethod
    def decide(self, progress: Progress) -> Decision:
        """Whether to stop replaying; asked after every block."""

    def stitch(self, rest: Rest) -> Stitched:
        """Put the rest of training back on: P_B - ρ·u, with the `share` of this pursuit for ρ."""
        from obliviate.methods.stitch import stitched  # noqa: PLC0415 - it needs torch

        return stitched(rest, self.share(rest))

    def share(self, rest: Rest) -> float:  # noqa: ARG002
        """ρ, from 0 to 1: how much of u is taken off. All of it, as the paper does."""
        return 1.0

    def end(self, state: State) -> None:  # noqa: ARG002
        """Look at the state that a replay has come to at the end of the chain.

        Args:
            state: Q_K.

        Raises:
            TooShallow: It has to begin further back.
        """
        self.ending = None


class Method(ABC):
    """How an erasure is carried out.

    Attributes:
        name: What it is called in the ledger, on the command line and in reports.
        is_exact: Whether it replays to the end, whatever is felt. Only "exact" may say so.
        aims: Whether its pursuit makes use of references, where the run has some.
        usual_reach: How many of the last epochs of a record are replayed where nobody says it, and
            so many are kept.
        checks: Whether its pursuit checks each stitch on records, and says so in its report.
        functional: Whether the erased records are read once more before they are erased, so that
            the trace can be followed as a function; see `trace`.
        is_fixed: Whether the lag at which replaying stops was chosen beforehand, whatever a check
            of the pursuit's own says.
    """

    name: ClassVar[str]
    is_exact: ClassVar[bool] = False
    checks: ClassVar[bool] = False
    aims: ClassVar[bool] = False
    usual_reach: ClassVar[int | None] = None

    @property
    def functional(self) -> bool:
        """See above."""
        return False

    @property
    def reach(self) -> int | None:
        """How many of the last epochs of a record are replayed; all that are kept if None."""
        return getattr(self, "back", None)

    @property
    def is_fixed(self) -> bool:
        """See above."""
        return getattr(self, "blocks", None) is not None

    def further_back(self, kept: int) -> Method | None:  # noqa: ARG002
        """The same, from further back; None where nothing but an exact replay is left.

        Args:
            kept: Of how many epochs every update is kept.
        """
        return None

    @abstractmethod
    def begin(self, erasure: Context) -> Pursuit:
        """Begin an erasure."""


def reach_of(back: Any) -> int | None:
    """The number of epochs to go back to.

    Raises:
        InvalidOption: It is none.
    """
    hint = "give a number of epochs, or None for all that are kept in full"
    return None if back is None else whole(back, "back", least=1, hint=hint)


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
