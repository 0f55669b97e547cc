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

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from obliviate.chain.chain import Offset
from obliviate.chain.reproduction import Reproduction, changed_records, chosen_blocks, reproducing
from obliviate.errors import RunDamaged
from obliviate.events import Event
from obliviate.ledger.outcome import Outcome
from obliviate.methods.buffers import batch_norm_statistics, buffers_apart
from obliviate.methods.method import Context, Decision, Progress, Rest
from obliviate.methods.owned import Owned, Taken, taken_off
from obliviate.methods.soundness import Finish
from obliviate.recipe.contents import NOTHING, without
from obliviate.states.difference import replaced, values_at
from obliviate.states.update import captured, update_between
from obliviate.text import READS_MORE
from obliviate.training.protocol import Checkpoint
from obliviate.vault.codec import decode_update, steps_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from obliviate.chain.chain import Chain
    from obliviate.erasure.plan import Plan
    from obliviate.ledger import Entry, Ledger
    from obliviate.ledger.outcome import Stitch
    from obliviate.methods.method import Method, Pursuit
    from obliviate.methods.trace import Trace
    from obliviate.recipe.contents import Hashes
    from obliviate.states.difference import Difference
    from obliviate.states.update import State, Update
    from obliviate.training.protocol import BlockTrainer, Trained
    from obliviate.vault.frames import Plain

MEASURED_BLOCKS = 4  # running statistics are measured on the last so many replayed blocks


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """Q_k: a block that was trained again without the erased records.

    Attributes:
        block: Its number.
        loss: Mean training loss.
        entry: What the chain will hold of it; it may still be on its way to the disk.
        update: V'_k.
        optimizer: That before the block, where it is carried.
    """

    block: int
    loss: float | None
    entry: Future[Entry]
    update: Update
    optimizer: State | None


@dataclass
class Erasing:
    """One erasure on its way.

    Attributes:
        number: Its number in the ledger.
        erased: All erased records, those of this erasure among them; sorted.
        is_exact: Whether the replay so far rests on exact states alone.
        at: The state that the replay has come to; None where nobody needs it any more.
        trace: What follows the trace as a function, where the method asks for it.
        doubts: Why nothing that is replayed can be called exact, in words.
        unchecked: Earlier erasures that replayed blocks without comparing any.
        unsound: Why a stitch after some block could not be served.
        remarks: What else there is to say.
        pursuit: The method's own view of this erasure.
        owned: Entries that the erased records alone have trained.
        taken: What was taken off those, at the end of the last stitch.
        least_lag: The lag before which stopping is out of the question, since a check failed.
    """

    chain: Chain
    trainer: BlockTrainer
    ledger: Ledger
    number: int
    plan: Plan
    method: Method
    erased: NDArray[np.int64]
    difference: Difference
    is_exact: bool
    staged: dict[int, Entry]
    trace: Trace | None = None
    doubts: list[str] = field(default_factory=list)
    unchecked: frozenset[int] = frozenset()
    contents: dict[int, Hashes] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    written: list[Future[Entry]] = field(default_factory=list)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2))
    stitched: list[range] = field(default_factory=list)
    segments: list[tuple[int, int]] = field(default_factory=list)
    residual_memory: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    tails: list[float] = field(default_factory=list)
    stitches: list[Stitch] = field(default_factory=list)
    unsound: dict[int, str] = field(default_factory=dict)
    remarks: set[str] = field(default_factory=set)
    least_lag: int = 0
    owned: Owned = field(init=False)
    taken: Taken = field(init=False)
    pursuit: Pursuit = field(init=False)
    original: State = field(default_factory=dict)
    at: Checkpoint | None = None

    def __post_init__(self) -> None:
        self.owned = Owned(self.trainer, self.erased)
        self.taken = Taken(steps={}, idle=0, others=0, left=0.0)
        self.pursuit = self.method.begin(
            Context(affected=self.plan.affected, blocks=self.chain.length, trace=self.trace)
        )

    def run(self) -> Generator[Event, None, Outcome]:
        """Carry the erasure out and commit it."""
        with self.threads:
            return (yield from self._run())

    def _run(self) -> Generator[Event, None, Outcome]:
        if self.plan.start is None:
            return self.nothing_replayed()
        started = time.perf_counter()
        self.chain.initial_hashes  # noqa: B018 - before there are states in memory
        self.at, first = self.chain.checkpoint(self.plan.start - 1), self.plan.start
        if self.trace is not None:
            self.original = captured(self.at.model)  # replaying uses the checkpoint up
        while True:
            last, decision = yield from self.replay(first)
            until = self.until(last)
            if last < until:
                end = self.end_of_stitch(last, until)
                if end is None:
                    first = last + 1
                    continue
                self.at = self.stitch(range(last + 1, until + 1), *end)
            self.estimate_tail(last, until, decision)
            if until == self.chain.length:
                break
            first = until + 1
        entries = [*self.entries, *(entry.result() for entry in self.written)]
        self.at, self.original = None, {}  # states are large
        reproduction = yield from self.compared(entries)
        if reproduction.doubt is not None:
            self.doubts.append(reproduction.doubt)
            entries = [replace(entry, guarantee="approximate") for entry in entries]
        result = next(entry for entry in entries if entry.block == self.chain.length)
        seconds = time.perf_counter() - started
        outcome = self.outcome(result, decision, seconds, reproduction.blocks)
        self.chain.rewrite(
            self.number,
            replaced=entries,
            stitched=self.stitched,
            outcome=outcome,
            contents=self.contents,
        )
        return outcome

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

    def replay(self, first: int) -> Generator[Event, None, tuple[int, Decision]]:
        """Replay from a block on until the method stops; return where it stopped, and why."""
        series: list[float] = []
        decision, last = Decision(is_final=False, reason=""), first
        is_more = self.is_more(first)
        start = merged([*self.segments, (first, first)])[-1][0]
        length = self.lengths[-1] if is_more else 0.0
        total = self.chain.length - (self.plan.start or 1) + 1
        read = self.threads.submit(self.read_original, first)  # while the replay trains
        for item in self.replayed(range(first, self.chain.length + 1)):
            if isinstance(item, Event):
                done = len(self.residual_memory) + item.done
                yield replace(item, task="replay", done=done, total=total)
                continue
            last, loss = item.block, item.loss
            growth, size = self.follow(last, start, read.result(), item)
            length = length or size or 1.0
            growth /= length
            series = [growth] if last in self.plan.affected else [*series, growth]
            self.written.append(item.entry)
            del item  # states are large
            self.residual_memory.append(growth)
            decision = self.decide(series, last)
            yield Event(
                task="replay",
                done=len(self.residual_memory),
                total=total,
                block=last,
                loss=loss,
                residual_memory=growth,
                functional_memory=self.trace.memory[-1] if self.trace else None,
            )
            if decision.is_final:
                break
            if last < self.chain.length:
                read = self.threads.submit(self.read_original, last + 1)
        if is_more:
            self.segments[-1] = (self.segments[-1][0], last)
        else:
            self.segments.append((first, last))
            self.lengths.append(length)
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
        if plain is None:
            return float("nan"), 0.0
        assert self.at is not None  # noqa: S101 - a block was replayed
        original = None if self.trace is None else decode_update(plain)
        steps = steps_of(plain) if original is None else original.steps.items()
        if original is not None:
            self.original = self.chain.state_after(self.original, block, original)
        found = self.difference.follow(
            steps, replayed.update, is_watched=block in self.plan.affected
        )
        if not self.method.is_exact:
            fresh, self.difference.fresh = self.difference.fresh, {}
            self.owned.follow(block, fresh, replayed.update, self.at.model, replayed.optimizer)
        if self.trace is not None:
            places, now = self.owned.places, self.at.model
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

    def is_more(self, first: int) -> bool:
        """Whether replaying from a block on is more of the last segment, as a check asked for."""
        return (
            bool(self.segments)
            and self.segments[-1][1] == first - 1
            and (first not in self.plan.affected)
        )

    def decide(self, series: list[float], last: int) -> Decision:
        """Whether the method would stop here."""
        lag = self.lag(last) if self.least_lag else 0
        # once a stitch has failed, another that saves less than was replayed is not worth a try
        if lag and (lag < self.least_lag or self.until(last) - last < lag):
            reason = f"lag {lag}: after a stitch that failed its check, more is replayed"
            return Decision(is_final=False, reason=reason)
        return self.pursuit.decide(Progress(series=series, block=last, until=self.until(last)))

    def lag(self, last: int) -> int:
        """Which block a block is, counted from the latest affected one on."""
        return last - max(block for block in self.plan.affected if block <= last) + 1

    def until(self, last: int) -> int:
        """The last block that would be stitched on, if replaying stopped here."""
        later = (block for block in self.plan.affected if block > last)
        return next(later, self.chain.length + 1) - 1

    def estimate_tail(self, last: int, until: int, decision: Decision) -> None:
        """Add up what the fitted curve predicts for the blocks that are about to be stitched."""
        if decision.law is None or until == last:
            return
        lag = self.lag(last)
        tail = decision.law.tail(lag, lag + until - last)
        self.tails.append(tail * self.lengths[-1] / self.lengths[0])

    def replayed(self, blocks: range) -> Iterator[Event | Replayed]:
        """Block after block from `at` on: first what was staged before a crash, then by training.

        `at` is Q_k then; nobody else holds on to it, or to what came of the blocks before.
        """
        assert self.at is not None  # noqa: S101 - the caller saw to it
        for block in blocks:
            if block not in self.staged:
                break
            entry = self.staged[block]
            optimizer = self.at.optimizer
            self.is_exact &= entry.guarantee == "exact"
            self.take_contents(block, NOTHING)
            self.at, update = self.chain.after(self.at.model, entry)
            done: Future[Entry] = Future()
            done.set_result(entry)
            yield Replayed(
                block=block, loss=entry.loss, entry=done, update=update, optimizer=optimizer
            )
        else:
            return
        for item in self.trainer.train(self.at, range(block, blocks.stop), self.erased):
            if isinstance(item, Event):
                yield item
                continue
            self.take_contents(item.block, item.contents)
            staged = [self.stage(item, self.at)]
            self.at = item.checkpoint
            del item
            yield staged.pop()

    def take_contents(self, block: int, found: Hashes) -> None:
        """Compare a block's records with what they were, and forget the erased ones."""
        differing = changed_records(self.chain, self.trainer, block, found)
        if differing is not None:
            self.is_exact = False
            self.doubts.append(differing)
        known = found if len(found) else self.chain.contents(block)
        self.contents[block] = without(known, self.trainer.layout.members(block), self.erased)

    def compared(self, entries: list[Entry]) -> Generator[Event, None, Reproduction]:
        """See whether what claims to be exact is: the last thing before the chain is rewritten."""
        if all(entry.block < self.chain.length or entry.guarantee != "exact" for entry in entries):
            return Reproduction()
        blocks = chosen_blocks(
            self.chain.entries, self.plan.start or 1, self.plan.affected, self.unchecked
        )
        return (yield from reproducing(self.chain, self.trainer, blocks, self.erased))

    def stage(self, trained: Trained, before: Checkpoint) -> Replayed:
        """Store a replayed block, though not in the chain yet, while the next one trains."""
        if self.written:
            self.written[-1].result()  # one at a time; and it may still need the previous state
        previous = before.model
        update = update_between(previous, trained.checkpoint.model, consume=True)
        return Replayed(
            block=trained.block,
            loss=trained.loss,
            entry=self.chain.aside(
                self.threads, previous, self._write, trained, update, self.is_exact
            ),
            update=update,
            optimizer=before.optimizer,
        )

    def _write(self, trained: Trained, update: Update, is_exact: bool) -> Entry:
        entry = self.chain.stored(
            trained,
            update,
            origin="replayed",
            guarantee="exact" if is_exact else "approximate",
            erasure=self.number,
        )
        self.ledger.stage(entry)
        return entry

    def end_of_stitch(self, last: int, until: int) -> tuple[Offset, dict[str, Tensor]] | None:
        """What a stretch of blocks is stitched with, and the state after the last of them.

        None where more must be replayed: the method's own check failed, or the state is not sound.
        """
        assert self.at is not None  # noqa: S101 - a block was replayed
        self.written[-1].result()
        finish, buffers = self.finishing(last, until)
        rho, state, finished = self.stitching(last, until, finish)
        has_passed = not self.stitches or self.stitches[-1].has_passed or self.method.is_fixed
        if faults := finish.faults(state, finished):
            self.unsound[last] = verdict = "; ".join(faults)
            self.stitches[-1:] = [
                replace(each, has_passed=False, verdict=verdict) for each in self.stitches[-1:]
            ]
        self.remarks.add(finish.remark)
        if faults or not has_passed:
            self.least_lag = 2 * self.lag(last)
            return None
        self.at = None
        if places := self.owned.places:
            self.remarks.add(str(self.taken))
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
        served = original if self.owned.places and self.trace else None
        if places := self.owned.places:
            assert self.at is not None  # noqa: S101 - a block was replayed
            self.taken = taken_off(
                self.owned,
                range(last + 1, until + 1),
                difference=difference,
                replayed=self.at.model,
                until=original,
                optimizers=(self.chain.optimizer(last), self.at.optimizer),
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
            self.stitches.append(stitched.report)
        return stitched.rho, stitched.state, stitched.finished

    def finishing(self, last: int, until: int) -> tuple[Finish, State]:
        """What finishes and judges the state at the end of a stitch, and Q_e."""
        assert self.at is not None  # noqa: S101 - the caller saw to it
        replayed, statistics = self.at.model, batch_norm_statistics(self.trainer.model)
        apart = {name: replayed[name] for name in statistics & self.trainer.buffers}
        if others := self.trainer.buffers - statistics:
            original = self.chain.state(last)
            differ = buffers_apart(others, original, replayed)
            apart |= {name: original[name] for name in sorted(differ)}
        finish = Finish(
            self.trainer,
            range(max(self.segments[-1][0], last - MEASURED_BLOCKS + 1), last + 1),
            self.erased,
            replayed=replayed,
            apart=apart,
            original=partial(self.chain.state, until),
            until=until,
            is_last=until == self.chain.length,
        )
        return finish, replayed

    def stitch(self, span: range, offset: Offset, state: dict[str, Tensor]) -> Checkpoint:
        """Stitch a span of blocks on; return the last of them, known already."""
        self.is_exact = False
        self.stitched.append(span)
        self.entries += self.chain.restitched(span, offset, state, self.number)
        return Checkpoint(model=state)

    def outcome(
        self, result: Entry, decision: Decision, seconds: float, reproduced: tuple[int, ...]
    ) -> Outcome:
        """What is written down of the erasure."""
        reason = decision.reason
        if self.segments[-1][1] == self.chain.length and not self.method.is_exact:
            reason = f"the end of the chain was reached ({reason})"
        reason += "".join(f"; {each}" for each in self.stitching_in_words())
        reason += "".join(f"; not exact: {doubt}" for doubt in dict.fromkeys(self.doubts))
        if self.trainer.recipe.reads == "more":
            reason += f"; {READS_MORE}"
        assert result.digest is not None  # noqa: S101 - block B always has one
        return Outcome(
            guarantee=result.guarantee,
            digest=result.digest,
            digest_before=self.chain.entries[-1].digest,
            segments=merged(self.segments),
            residual_memory=tuple(self.residual_memory),
            stop_reason=reason,
            predicted_tail=sum(self.tails) if self.tails else None,
            functional_memory=tuple(self.trace.memory) if self.trace else (),
            control_memory=tuple(self.trace.control_memory) if self.trace else (),
            stitches=tuple(self.stitches),
            seconds=seconds,
            reproduced=reproduced,
        )

    def stitching_in_words(self) -> Iterator[str]:
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


def merged(segments: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Segments that follow each other without a gap, as one."""
    joined: list[tuple[int, int]] = []
    for first, last in segments:
        if joined and joined[-1][1] + 1 == first:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return tuple(joined)
