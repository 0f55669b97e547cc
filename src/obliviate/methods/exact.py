"""The method "exact": replay all that follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obliviate.methods.method import Decision, Method, Pursuit
from obliviate.options import flag

if TYPE_CHECKING:
    from obliviate.methods.method import Context, Progress


@dataclass(frozen=True, kw_only=True)
class Exact(Method):
    """Replay to the end: bit-equal to training without the erased records.

    Attributes:
        functional: Measure how the trace fades as a function, too; see `fading`. The
            erased records are read once more for it, before they are erased.
    """

    functional: bool = False
    name: ClassVar[str] = "exact"
    is_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "functional", flag(self.functional, "functional"))

    def begin(self, erasure: Context) -> Pursuit:  # noqa: ARG002
        """Begin an erasure."""
        return ToTheEnd()


class ToTheEnd(Pursuit):
    """Never stops before the end of the chain."""

    def decide(self, progress: Progress) -> Decision:  # noqa: ARG002
        """Go on."""
        return Decision(is_final=False, reason="exact: replayed to the end of the chain")
