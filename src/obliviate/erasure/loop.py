"""Erasing: plan -> replay <-> stop -> stitch -> rewrite. The one loop that ties the rooms together.

Let d be the first block that holds an erased record and P the chain. Replaying starts from P_{d-1},
the checkpoint BEFORE that block, and gives Q_d, Q_{d+1}, .... The method looks at the residual
memory after each block and decides when the trace has faded. Where it stops before the next
affected block n, the blocks between are stitched and replaying resumes from the stitched P_{n-1};
behind the last segment the rest of the chain is stitched on. Every replayed block is staged in the
ledger as it comes, so a killed erasure goes on where it was; nothing is part of the chain until all
of it is.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from obliviate.chain.bridge import bridging
from obliviate.chain.reproduction import Reproduction, chosen_blocks, reproducing
from obliviate.chain.restitching import Offset, restitched
from obliviate.erasure.account import Account, merged
from obliviate.erasure.finishing import finish_of
from obliviate.erasure.foundation import founded
from obliviate.errors import RunDamaged
from obliviate.events import Event
from obliviate.ledger.outcome import Outcome
from obliviate.methods.method import Context, Decision, Progress, Rest, TooShallow
from obliviate.methods.owned import Owned, Taken, taken_off
from obliviate.states.difference import replaced, values_at
from obliviate.states.update import captured
from obliviate.text import READS_MORE
from obliviate.training.protocol import Checkpoint
from obliviate.vault.codec import decode_update, steps_of

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from obliviate.chain.chain import Chain
    from obliviate.erasure.foundation import Foundation
    from obliviate.erasure.plan import Plan
    from obliviate.erasure.replay import Replay, Replayed
    from obliviate.ledger import Entry
    from obliviate.methods.aim import Aim
    from obliviate.methods.method import Method, Pursuit
    from obliviate.methods.soundness import Finish
    from obliviate.methods.trace import Trace
    from obliviate.states.difference import Difference
    from obliviate.states.update import State
    from obliviate.training.protocol import BlockTrainer
    from obliviate.vault.frames import Plain


@dataclass
class Erasing:
    """One erasure on its way.

    Attributes:
        number: Its number in the ledger.
        erased: All erased records, those of this erasure among them; sorted.
        replay: The blocks that are trained again.
        trace: What follows the trace as a function, where the method asks for it.
        aim: What knows where the records should end, where the run has references.
        too_shallow: Why it was begun again from further back, in words.
        unchecked: Earlier erasures that replayed blocks without comparing any.
        account: What was done and measured so far.
        pursuit: The method's own view of this erasure.
        owned: Entries that the erased records alone have trained.
        taken: What was taken off those, at the end of the last stitch.
        least_lag: The lag before which stopping is out of the question, since a check failed.
        original: P_k, where the trace is followed.
        reader: Reads the original while the replay trains.
    """

    chain: Chain
    trainer: BlockTrainer
    number: int
    plan: Plan
    method: Method
    erased: NDArray[np.int64]
    difference: Difference
    replay: Replay
    trace: Trace | None = None
    aim: Aim | None = None
    too_shallow: tuple[str, ...] = ()
    unchecked: frozenset[int] = frozenset()
    entries: list[Entry] = field(default_factory=list)
    stitched: list[range] = field(default_factory=list)
    least_lag: int = 0
    account: Account = field(init=False)
    owned: Owned = field(init=False)
    taken: Taken = field(init=False)
    pursuit: Pursuit = field(init=False)
    original: State = field(default_factory=dict)
    reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def __post_init__(self) -> None:
        self.account = Account(trace=self.trace)
        self.owned = Owned(self.trainer, self.erased)
        self.taken = Taken(steps={}, idle=0, others=0, left=0.0)
        layout = self.trainer.layout
        self.pursuit = self.method.begin(
            Context(
                affected=self.plan.affected,
                blocks=self.chain.length,
                epochs=layout.epochs(range(1, self.chain.length + 1)),
                reached=layout.epochs(self.plan.affected),
                trace=self.trace,
                aim=self.aim,
            )
        )

    def run(self) -> Generator[Event, None, Outcome]:
        """Carry the erasure out and commit it."""
        with self.reader, self.replay.storing:
            try:
                return (yield from self._run())
            finally:
                self.replay.at = None  # states are large, and an exception holds on to them

    def _run(self) -> Generator[Event, None, Outcome]:
        if self.plan.start is None:
            return self.nothing_replayed()
        started = time.perf_counter()
        self.chain.initial_hashes  # noqa: B018 - before there are states in memory
        first = self.plan.start
        self.replay.at = yield from bridging(self.chain, self.trainer, first - 1, self.erased)
        if self.trace is not None:
            self.original = captured(self.replay.at.model)  # replaying uses the checkpoint up
        while True:
            last, decision = yield from self.segment(first)
            until = self.plan.until(last)
            if last < until:
                end = self.end_of_stitch(last, until)
                if end is None:
                    first = last + 1
                    continue
                self.replay.at = self.stitch(range(last + 1, until + 1), *end)
                self.account.estimate_tail(until - last, self.plan.lag(last), decision)
            if until == self.chain.length:
                break
            first = until + 1
        self.replay.storing.finish()
        if last == self.chain.length:
            self.end()
        entries = [*self.entries, *(entry.result() for entry in self.replay.written)]
        buffers = {name: self.replay.at.model[name] for name in self.trainer.buffers}
        self.replay.at, self.original = None, {}  # states are large
        reproduction = yield from self.compared(entries)
        if reproduction.doubt is not None:
            self.replay.doubts.append(reproduction.doubt)
            entries = [replace(entry, guarantee="approximate") for entry in entries]
        result = next(entry for entry in entries if entry.block == self.chain.length)
        seconds = time.perf_counter() - started
        outcome = self.account.outcome(
            result,
            digest_before=self.chain.entries[-1].digest,
            reason=self.account.reason(
                decision,
                has_ended=self.account.segments[-1][1] == self.chain.length
                and not self.method.is_exact,
                remarks=[
                    *([str(self.taken)] if self.taken.steps else []),
                    *(f"not exact: {doubt}" for doubt in dict.fromkeys(self.replay.doubts)),
                    *([READS_MORE] if self.trainer.recipe.reads == "more" else []),
                ],
            ),
            seconds=seconds,
            reproduced=reproduction.blocks,
            ending=self.pursuit.ending,
            too_shallow=self.too_shallow,
        )
        dropped = range(0)
        if self.plan.unreached:
            foundation = self.foundation(entries, buffers)
            dropped, entries = foundation.dropped, foundation.under(entries)
            self.stitched.append(foundation.stitched)
        self.chain.rewrite(
            self.number,
            replaced=entries,
            stitched=self.stitched,
            dropped=dropped,
            outcome=outcome,
            contents=self.replay.contents,
        )
        return outcome

    def end(self) -> None:
        """Let the method look at a replay that has come to the end of the chain.

        One that is exact as it is has nothing further back to begin at.
        """
        assert self.replay.at is not None  # noqa: S101 - a block was replayed
        with contextlib.suppress(*((TooShallow,) if self.replay.is_exact else ())):
            self.pursuit.end(self.replay.at.model)

    def foundation(self, entries: Sequence[Entry], buffers: State) -> Foundation:
        """What the replay stands on, where it does not reach all blocks that hold the records."""
        for block in self.plan.unreached:
            self.replay.contents[block] = self.replay.retained(block, self.chain.contents(block))
        return founded(
            self.chain,
            self.plan,
            next(entry for entry in entries if entry.block == self.plan.start),
            taken=self.difference.tensors,
            buffers=buffers,
            erasure=self.number,
        )

    def nothing_replayed(self) -> Outcome:
        """Commit the erasure of records that no block of the chain has been trained on yet."""
        last = self.chain.entries[-1]
        assert last.digest is not None  # noqa: S101 - the last block always has one
        outcome = Outcome(
            guarantee=last.guarantee,
            digest=last.digest,
            digest_before=last.digest,
            stop_reason="no block that holds the records has been trained on yet",
        )
        self.chain.rewrite(self.number, replaced=[], stitched=[], outcome=outcome, contents={})
        return outcome

    def segment(self, first: int) -> Generator[Event, None, tuple[int, Decision]]:
        """Replay from a block on until the method stops; return where it stopped, and why."""
        series: list[float] = []
        decision, last = Decision(is_final=False, reason=""), first
        is_more = self.account.goes_on(first) and first not in self.plan.affected
        start = merged([*self.account.segments, (first, first)])[-1][0]
        length = self.account.lengths[-1] if is_more else 0.0
        total = self.chain.length - (self.plan.start or 1) + 1
        read = self.reader.submit(self.read_original, first)  # while the replay trains
        for item in self.replay.over(range(first, self.chain.length + 1)):
            if isinstance(item, Event):
                done = len(self.account.residual_memory) + item.done
                yield replace(item, task="replay", done=done, total=total)
                continue
            last, loss = item.block, item.loss
            growth, size = self.follow(last, start, read.result(), item)
            length = length or size or 1.0
            growth /= length
            series = [growth] if last in self.plan.affected else [*series, growth]
            self.replay.written.append(item.entry)
            del item  # states are large
            self.account.residual_memory.append(growth)
            decision = self.decide(series, last)
            yield Event(
                task="replay",
                done=len(self.account.residual_memory),
                total=total,
                block=last,
                loss=loss,
                residual_memory=growth,
                functional_memory=self.trace.memory[-1] if self.trace else None,
            )
            if decision.is_final:
                break
            if last < self.chain.length:
                read = self.reader.submit(self.read_original, last + 1)
        if is_more:
            self.account.segments[-1] = (self.account.segments[-1][0], last)
        else:
            self.account.segments.append((first, last))
            self.account.lengths.append(length)
        return last, decision

    def follow(
        self, block: int, first: int, plain: Plain | None, replayed: Replayed
    ) -> tuple[float, float]:
        """Take up what the original and the replay of a block did.

        Args:
            block: k.
            first: The first block of the segment.
            plain: The original V_k as it was read, tensor by tensor where that is enough.
            replayed: What came of replaying it.

        Returns:
            Δ_k and ‖V_k‖₁; NaN and 0 where V_k is lost.
        """
        if plain is None or replayed.update is None:
            return float("nan"), 0.0
        assert self.replay.at is not None  # noqa: S101 - a block was replayed
        now = self.replay.at.model
        original = None if self.trace is None else decode_update(plain)
        steps = steps_of(plain) if original is None else original.steps.items()
        if original is not None:
            self.original = self.chain.state_after(self.original, block, original)
        found = self.difference.follow(
            steps, replayed.update, is_watched=block in self.plan.affected
        )
        if not self.method.is_exact:
            fresh, self.difference.fresh = self.difference.fresh, {}
            self.owned.follow(
                block, fresh, replayed.update, self.replay.at.model, replayed.optimizer
            )
        if self.trace is not None:
            places, now = self.owned.places, self.replay.at.model
            shared = replaced(self.original, places, values_at(now, places)) if places else None
            self.trace.follow(block, first, self.original, now, shared)
        return found

    def read_original(self, block: int) -> Plain | None:
        """V_k as it is stored; None where it is lost and the method can do without it."""
        try:
            return self.chain.read_update(block)
        except RunDamaged:
            if self.method.is_exact and self.trace is None:
                return None
            raise

    def decide(self, series: list[float], last: int) -> Decision:
        """Whether the method would stop here."""
        lag = self.plan.lag(last) if self.least_lag else 0
        # once a stitch has failed, another that saves less than was replayed is not worth a try
        if lag and (lag < self.least_lag or self.plan.until(last) - last < lag):
            reason = f"lag {lag}: after a stitch that failed its check, more is replayed"
            return Decision(is_final=False, reason=reason)
        return self.pursuit.decide(Progress(series=series, block=last, until=self.plan.until(last)))

    def compared(self, entries: list[Entry]) -> Generator[Event, None, Reproduction]:
        """See whether what claims to be exact is: the last thing before the chain is rewritten."""
        if all(entry.block < self.chain.length or entry.guarantee != "exact" for entry in entries):
            return Reproduction()
        blocks = chosen_blocks(self.chain, self.plan.start or 1, self.plan.affected, self.unchecked)
        return (yield from reproducing(self.chain, self.trainer, blocks, self.erased))

    def end_of_stitch(self, last: int, until: int) -> tuple[Offset, dict[str, Tensor]] | None:
        """What a stretch of blocks is stitched with, and the state after the last of them.

        None where more must be replayed: the method's own check failed, or the state is not sound.
        """
        assert self.replay.at is not None  # noqa: S101 - a block was replayed
        self.replay.written[-1].result()
        finish = finish_of(
            self.chain,
            self.trainer,
            self.erased,
            buffers := self.replay.at.model,
            blocks=range(self.account.segments[-1][0], last + 1),
            until=until,
        )
        rho, state, finished = self.stitching(last, until, finish)
        has_passed = self.account.has_passed() or self.method.is_fixed
        if faults := finish.faults(state, finished):
            self.account.fail(last, "; ".join(faults))
        self.account.remarks.add(finish.remark)
        if faults or not has_passed:
            self.least_lag = 2 * self.plan.lag(last)
            return None
        self.replay.at, places = None, self.owned.places
        self.original = self.chain.state(until) if self.trace and until < self.chain.length else {}
        offset = Offset(
            rest=self.difference.split(rho, places, self.taken.steps),
            steps=self.difference.tensors,
            buffers={name: buffers[name] for name in self.trainer.buffers},
            is_forgetful=finish.is_forgetful,
        )
        return offset, finished

    def stitching(
        self, last: int, until: int, finish: Finish
    ) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
        """ρ, and the state after a stitched stretch before and after it is finished."""
        original, difference = self.chain.state(until), self.difference.tensors
        served = original if self.owned.places and (self.trace or self.aim) else None
        if places := self.owned.places:
            assert self.replay.at is not None  # noqa: S101 - a block was replayed
            self.taken = taken_off(
                self.owned,
                range(last + 1, until + 1),
                difference=difference,
                replayed=self.replay.at.model,
                until=original,
                optimizers=(self.chain.optimizer(last), self.replay.at.optimizer),
            )
            found = values_at(original, places)
            left = {name: value - self.taken.steps[name] for name, value in found.items()}
            original = replaced(original, places, left)
            none = {name: torch.zeros(len(at)) for name, at in places.items()}
            difference = replaced(difference, places, none)
        rest = Rest(
            block=last,
            until=until,
            original=original,
            difference=difference,
            finish=finish,
            served=served,
        )
        stitched = self.pursuit.stitch(rest)
        if stitched.report is not None:
            self.account.stitches.append(stitched.report)
        return stitched.rho, stitched.state, stitched.finished

    def stitch(self, span: range, offset: Offset, state: dict[str, Tensor]) -> Checkpoint:
        """Stitch a span of blocks on; return the last of them, known already."""
        self.replay.is_exact = False
        self.stitched.append(span)
        self.entries += restitched(self.chain, span, offset, state, self.number)
        # what the optimizer gathered by then holds next to nothing of the erased records
        moments = self.owned.untrained(self.chain.optimizer(span[-1]))
        return Checkpoint(model=state, optimizer=moments)
