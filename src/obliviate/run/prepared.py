"""Prepared: an erasure, with all that it works with."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from obliviate.erasure.loop import Erasing
from obliviate.erasure.replay import Replay
from obliviate.ledger.facts import ERASED
from obliviate.methods.aim import STRIDE, Aim, aim_of
from obliviate.methods.exact import Exact
from obliviate.methods.method import TooShallow
from obliviate.methods.registry import method_from, options_of
from obliviate.methods.trace import Trace, exponent_of, trace_of
from obliviate.run.references import given_references
from obliviate.states.difference import Difference

if TYPE_CHECKING:
    from collections.abc import Generator

    from obliviate.chain.chain import Chain
    from obliviate.erasure.plan import Plan
    from obliviate.events import Event
    from obliviate.ledger import ErasureFacts
    from obliviate.ledger.outcome import Outcome
    from obliviate.methods.method import Method
    from obliviate.run.worker import Writer


Observer: TypeAlias = "Trace | Aim | None"
"""What looks at the erased records, where a method asks for it."""


def deep_enough(
    writer: Writer, facts: ErasureFacts, chain: Chain, observer: Observer
) -> Generator[Event, None, Outcome]:
    """Carry an erasure out from as far back as its method asks for, at last exactly.

    Args:
        writer: Who carries it out.
        facts: What the ledger says of it.
        chain: The chain as it is.
        observer: Of its records, where they have been read for it already.
    """
    too_shallow: tuple[str, ...] = ()
    while True:
        erasing = erasing_of(writer, facts, chain, observer, too_shallow)
        try:
            return (yield from erasing.run())
        except TooShallow as reason:
            further = further_back(writer, erasing)
            begun = len(erasing.plan.affected)
            too_shallow += (f"from {begun} blocks that hold them: {reason}",)
        observer = erasing.aim
        del erasing  # states are large
        facts = writer.ledger.erasures.begin_again(facts.id, options_of(further))
        chain.sweep()


def erasing_of(
    writer: Writer,
    facts: ErasureFacts,
    chain: Chain,
    observer: Observer,
    too_shallow: tuple[str, ...] = (),
) -> Erasing:
    """An erasure that the ledger knows of, ready to be carried out.

    Args:
        writer: Who carries it out.
        facts: What the ledger says of it.
        chain: The chain as it is.
        observer: Of its records, where they have been read for it already.
        too_shallow: Why it was begun again from further back, in words.
    """
    ledger, trainer, method = writer.ledger, writer.trainer, method_from(facts.method)
    records = ledger.erasures.records_of(facts.id)
    plan = writer.plan(records, method)
    observer = observer or observer_of(writer, method, plan, chain)
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
        trace=observer if isinstance(observer, Trace) else None,
        aim=observer if isinstance(observer, Aim) else None,
        too_shallow=too_shallow,
        unchecked=frozenset(
            each.id
            for each in ledger.erasures.all()
            if each.state in ERASED and not (each.outcome and each.outcome.reproduced)
        ),
    )


def further_back(writer: Writer, erasing: Erasing) -> Method:
    """What an erasure is begun again by: its method from further back, or at last an exact replay.

    Not every part of a chain keeps as many epochs; those count that the erasure has gone back to.
    Behind what an earlier erasure has replayed nothing is kept, and the same again helps nobody.
    """
    records, affected = np.array(erasing.plan.records, dtype=np.int64), erasing.plan.affected
    kept = min(
        part.keep
        for part in writer.facts.parts
        if any(part.first_block <= block < part.first_block + part.length for block in affected)
    )
    method = erasing.method.further_back(kept)
    if method is None or writer.plan(records, method).affected == affected:
        return Exact()
    return method


def observer_of(writer: Writer, method: Method, plan: Plan, chain: Chain) -> Observer:
    """What looks at the records of a request, if the method does; it reads them once."""
    records = np.array(plan.records, dtype=np.int64)
    if not (method.functional and len(records)):
        return None
    records = records[writer.places(records).earliest <= chain.length]
    if not len(records):
        return None
    trainer, layout = writer.trainer, writer.trainer.layout
    gone = np.union1d(writer.ledger.records.erased(), records)
    references = given_references(writer, method)
    if references is not None:
        return aim_of(
            trainer,
            references,
            state=chain.state(chain.length),
            records=records,
            gone=gone,
            replayed=STRIDE * len(plan.affected) * layout.records // layout.parts[-1].blocks,
        )
    return trace_of(trainer, chain, records, gone, exponent_of(writer.ledger.erasures.all()))
