"""Carried: what came of a call that carries an erasure out, or of one that a kill had left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obliviate.chain.chain import Chain
    from obliviate.ledger import ErasureFacts
    from obliviate.ledger.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """What came of an erasure that a killed process had left.

    Attributes:
        facts: The erasure.
        requests: The numbers of the requests that it was to carry out.
        is_again: Whether it erased what had been erased before, by a ledger that was newer.
        error: Why it was taken back; its requests wait again.
    """

    facts: ErasureFacts
    requests: tuple[int, ...]
    error: Exception | None = None
    is_again: bool = False


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What came of a call that carries out an erasure.

    Attributes:
        chain: As it is afterwards.
        number: Of the erasure; None where there was nothing to do.
        ignored: Named records that had been erased before.
        seconds: How long it took.
        outcome: What was measured on the way; the ledger may know less of it by now.
    """

    chain: Chain
    number: int | None
    ignored: tuple[int, ...] = ()
    seconds: float = 0.0
    outcome: Outcome | None = None
