"""Prepared: an erasure, with all that it works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from obliviate.erasure.loop import Erasing
from obliviate.erasure.replay import Replay
from obliviate.ledger.facts import ERASED
from obliviate.methods.registry import method_from
from obliviate.methods.trace import exponent_of, trace_of
from obliviate.states.difference import Difference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from obliviate.chain.chain import Chain
    from obliviate.ledger import ErasureFacts
    from obliviate.methods.method import Method
    from obliviate.methods.trace import Trace
    from obliviate.run.worker import Writer


def erasing_of(writer: Writer, facts: ErasureFacts, chain: Chain, trace: Trace | None) -> Erasing:
    """An erasure that the ledger knows of, ready to be carried out.

    Args:
        writer: Who carries it out.
        facts: What the ledger says of it.
        chain: The chain as it is.
        trace: Of its records, where they have been read for it already.
    """
    ledger, trainer, method = writer.ledger, writer.trainer, method_from(facts.method)
    records = ledger.erasures.records_of(facts.id)
    plan = writer.plan(records, method)
    doubts = [
        f"the run was made with {name} {then}, not {now}"
        for name, (then, now) in writer.changed_environment().items()
    ]
    erased = ledger.records.erased(running=facts.id)
    rests_on_exact = chain.entries[(plan.start or 1) - 1].guarantee == "exact"
    return Erasing(
        chain=chain,
        trainer=trainer,
        number=facts.id,
        plan=plan,
        method=method,
        erased=erased,
        difference=Difference(trainer.parameters, trainer.buffers, is_kept=not method.is_exact),
        replay=Replay(
            chain=chain,
            trainer=trainer,
            ledger=ledger,
            number=facts.id,
            erased=erased,
            staged=ledger.erasures.staged(facts.id),
            is_exact=rests_on_exact and not (doubts or plan.unreached),
            doubts=doubts,
        ),
        trace=trace or trace_of_request(writer, method, records, chain),
        unchecked=frozenset(
            each.id
            for each in ledger.erasures.all()
            if each.state in ERASED and not (each.outcome and each.outcome.reproduced)
        ),
    )


def trace_of_request(
    writer: Writer, method: Method, records: NDArray[np.int64], chain: Chain
) -> Trace | None:
    """What follows the trace as a function, if the method does; it reads the records once."""
    if not (method.functional and len(records)):
        return None
    records = records[writer.places(records).earliest <= chain.length]
    if not len(records):
        return None
    gone = np.union1d(writer.ledger.records.erased(), records)
    return trace_of(writer.trainer, chain, records, gone, exponent_of(writer.ledger.erasures.all()))
