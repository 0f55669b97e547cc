"""What the calls of a run give back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from obliviate.ledger import ErasureFacts
    from obliviate.ledger.facts import Guarantee
    from obliviate.trace import Stitch


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """A carried-out erasure.

    Attributes:
        model: The model it left, in eval mode.
        digest: sha256 of that model's state.
        digest_before: Of the model before it.
        guarantee: "exact": bit for bit what training without the erased records gives;
            "approximate": nothing is proved by itself.
        method: The name of the method.
        records: How many records were erased.
        ignored: Named records that had been erased before.
        blocks_total: How many blocks the chain has.
        blocks_replayed: How many of them were trained on again.
        segments: The replayed blocks, as (first, last).
        residual_memory: One float for each replayed block: Δ_k relative to ‖V_d‖₁. NaN where an
            exact replay found the original update lost.
        stop_reason: Why replaying stopped, in words.
        predicted_tail: See `obliviate.erasure.Outcome`.
        functional_memory: Mean of score(P_k) - score(Q_k) over the erased records, one for each
            replayed block: how much better the model before still remembered them. Empty where the
            method does not measure it, None where the records could not be scored.
        control_memory: The same over control records, retained ones of the same blocks.
        stitches: How the rest of training was put back, for the method "calibrated": ρ, the
            predicted residue with its interval, and the check's verdict.
        seconds: From the request to the usable model.
        speedup: Against a full retrain, from this run's measured block times.
        number: Its number in the ledger; None where there was nothing to do.
        condemned: See `Status`.
    """

    model: nn.Module
    digest: str
    digest_before: str | None
    guarantee: Guarantee
    method: str
    records: int
    ignored: tuple[int, ...]
    blocks_total: int
    blocks_replayed: int
    segments: tuple[tuple[int, int], ...]
    residual_memory: tuple[float, ...]
    stop_reason: str
    predicted_tail: float | None
    functional_memory: tuple[float | None, ...]
    control_memory: tuple[float | None, ...]
    stitches: tuple[Stitch, ...]
    seconds: float
    speedup: float
    number: int | None
    condemned: int = 0


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a run stands.

    Attributes:
        records: How many records the dataset has.
        erased: How many of them are erased or were left out from the start.
        blocks: How many blocks the chain will have.
        blocks_done: How many it has.
        guarantee: Of the model at the end; None while the run is unfinished.
        digest: Of that model; None while the run is unfinished.
        first_approximate: The first block whose state is not exact.
        seconds_to_settle: How long `settle` would take, from measured block times.
        erasures: All erasures, in order.
        condemned: Objects that are to be destroyed and of which something is left, because another
            process keeps reading the ledger from before. The next call that writes tries again.
        journal_head: The hash of the journal's last entry, which stands for all that was written
            down so far: kept elsewhere, it shows later whether any of it was changed.
    """

    records: int
    erased: int
    blocks: int
    blocks_done: int
    guarantee: Guarantee | None
    digest: str | None
    first_approximate: int | None
    seconds_to_settle: float
    erasures: tuple[ErasureFacts, ...]
    journal_head: str
    condemned: int = 0
