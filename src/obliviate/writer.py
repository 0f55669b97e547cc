"""Writer: the one who may change a run, for as long as it holds the run's lease.

It first finishes what a killed process left, then carries out what was asked for.
"""

from __future__ import annotations

import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from obliviate import clock
from obliviate.chain import Chain
from obliviate.custody import begin, forsake, mark
from obliviate.environment import BITS_DEPEND_ON, environment_facts
from obliviate.erasure import Erasing
from obliviate.errors import (
    ConnectionLost,
    ForeignData,
    LeaseLost,
    NothingLearned,
    ObliviateError,
    StorageFailed,
    StorageFull,
    TrainingFailed,
)
from obliviate.identity import SAMPLED_RECORDS, content_hashes, sampled
from obliviate.ledger.facts import ERASED
from obliviate.ledger.tombstones import Tombstones
from obliviate.planner import Planner, check_left
from obliviate.policy import due_date
from obliviate.progress import Event
from obliviate.repair import repairing
from obliviate.residual import Exact, method_of
from obliviate.stitch import Difference
from obliviate.trace import exponent_of, trace_of
from obliviate.vault import Terms

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from concurrent.futures import Future
    from typing import Literal

    from numpy.typing import NDArray

    from obliviate.erasure import Outcome
    from obliviate.ledger import ErasureFacts, Ledger, RunFacts
    from obliviate.ledger.facts import Guarantee
    from obliviate.plan import Plan
    from obliviate.repair import Repair
    from obliviate.residual import Method
    from obliviate.state import State
    from obliviate.trace import Trace
    from obliviate.training import Trained, Trainer
    from obliviate.vault import Vault

    Kind = Literal["forget", "settle"]

"""An option that is not worth a word where it is not taken."""

_ASK_AGAIN = (TrainingFailed, StorageFull, StorageFailed)
"""What asking again may mend."""

_OUT_OF_REACH = (ConnectionLost, LeaseLost)
"""What leaves no way to take anything back."""


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


def options_of(method: Method) -> dict[str, object]:
    """A method as the ledger keeps it: its name and the options that are set."""
    given = {name: value for name, value in vars(method).items() if value not in {None, False}}
    return {"name": method.name} | given


def method_from(options: Mapping[str, object]) -> Method:
    """The method that the ledger keeps."""
    rest = dict(options)
    return method_of(str(rest.pop("name")), **rest)


def _append(
    chain: Chain, trained: Trained, previous: State, guarantee: Guarantee, learned: frozenset[str]
) -> None:
    """`Chain.append` in another thread, whatever mode the caller has made its states in."""
    with torch.inference_mode():
        changed = chain.append(trained, previous, guarantee=guarantee)
    if trained.is_learning and not changed & learned:
        warnings.warn(
            f"block {trained.block} was trained on, and changed no parameter. An optimizer that "
            "gathers gradients over several calls begins anew in every block: gather them within "
            "the step instead, or take fewer blocks",
            NothingLearned,
            stacklevel=2,
        )


class Writer:
    """Changes the chain of a run.

    Attributes:
        patience_seconds: How long to wait for another live process that writes to the run; None:
            until it is done.
    """

    def __init__(self, ledger: Ledger, vault: Vault, trainer: Trainer, facts: RunFacts) -> None:
        self.ledger, self.vault, self.trainer, self.facts = ledger, vault, trainer, facts
        self.patience_seconds: float | None = None

    def chain(self) -> Chain:
        """The chain as it is now."""
        spacing = Terms.of(self.facts.vault).spacing
        return Chain(self.ledger, self.vault, self.facts.blocks, self.trainer.buffers, spacing)

    # What a request means

    def left_of(self, named: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The named records that are not erased yet, and those that are.

        Raises:
            NothingLeft: No record would be left.
        """
        erased = self.ledger.erased_among(named)
        ids = np.setdiff1d(named, erased)
        check_left(self.facts.records, self.ledger.erased_count(), len(ids))
        return ids, erased

    def plan(self, named: NDArray[np.int64], method: str) -> Plan:
        """What erasing some records would touch and cost, by a method of that name."""
        blocks = self.ledger.people.blocks_of(named)
        return self.planner().plan(named, blocks.astype(np.int64), method)

    def planner(self) -> Planner:
        """What plans erasures, from how the run stands now."""
        return Planner.of(self.ledger, self.facts.records)

    def changed_environment(self) -> dict[str, tuple[str, str]]:
        """See `Run.changed_environment`."""
        now = environment_facts(self.trainer.recipe.device)
        return {
            name: (then, now.get(name, "none"))
            for name, then in self.facts.environment.items()
            if name in BITS_DEPEND_ON and now.get(name) != then
        }

    def waiting(self) -> NDArray[np.int64]:
        """The records of an erasure that was begun and is not carried out yet; sorted."""
        running = self.ledger.running()
        none = np.array([], dtype=np.int64)
        return none if running is None else self.ledger.records_of_erasure(running.id)

    def waiting_blocks(self) -> frozenset[int]:
        """The blocks that hold them."""
        return frozenset(self.ledger.people.blocks_of(self.waiting()).tolist())

    # Carrying out

    def taking_lease(
        self, patience_seconds: float | None = None, *, is_mending: bool = False
    ) -> Generator[Event, None, None]:
        """Wait until no other process writes; the lease has to be released afterwards.

        Args:
            patience_seconds: How long; the writer's own patience if None.
            is_mending: Whether a lost marker of the vault is made again.

        Raises:
            RunLocked: The patience was over first.
            RunOutdated, RunDamaged, ForeignVault: The vault is not this ledger's to write to.
        """
        if patience_seconds is None:
            patience_seconds = self.patience_seconds
        for other in self.ledger.lease.held(patience_seconds=patience_seconds):
            yield Event(task=f"wait for {other}", done=0, total=1, block=0)
        try:
            self.ledger.check()  # before anything is destroyed by what it says
            begin(self.ledger, self.vault, is_mending=is_mending)
        except BaseException:
            self.ledger.lease.release()
            raise

    def sweeping(self, patience_seconds: float) -> Generator[Event, None, None]:
        """Destroy what a process that was killed after its commit had still to destroy."""
        yield from self.taking_lease(patience_seconds)
        try:
            self.chain().sweep()
        finally:
            self.ledger.lease.release()

    def erasing(
        self,
        kind: Kind,
        named: NDArray[np.int64],
        method: Method,
        *,
        requests: tuple[int, ...] = (),
    ) -> Generator[Event, None, Carried]:
        """Carry out an erasure, as soon as no other process writes.

        Args:
            kind: "forget" or "settle".
            named: Records; those that are erased already are ignored.
            method: How.
            requests: Those that wait and are carried out by this. If there are none, a "forget" is
                a request of its own.
        """
        yield from self.taking_lease()
        try:
            resumed = yield from self.continuing()
            started, chain = time.perf_counter(), self.chain()
            plan = self.plan(named, method.name)
            if not plan.records and plan.start is None:
                return self._nothing_to_do(kind, named, resumed, chain, plan)
            ids = np.array(plan.records, dtype=np.int64)
            self.ledger.check(ids, names=("erased",))
            trace = self._trace(method, ids, chain)
            facts = self._begin(kind, plan, method, requests)
            outcome = yield from self._carrying_out(facts, chain, trace, is_waiting=bool(requests))
            return Carried(
                chain=chain,
                number=facts.id,
                ignored=plan.ignored,
                seconds=time.perf_counter() - started,
                outcome=outcome,
            )
        finally:
            self.ledger.lease.release()

    def _nothing_to_do(
        self,
        kind: Kind,
        named: NDArray[np.int64],
        resumed: ErasureFacts | None,
        chain: Chain,
        plan: Plan,
    ) -> Carried:
        """The answer to a request that was carried out before, or that a killed call had begun."""
        if resumed is not None and resumed.kind == kind:
            its = self.ledger.records_of_erasure(resumed.id)
            if np.array_equal(its, named):
                return Carried(chain=chain, number=resumed.id)
        return Carried(chain=chain, number=None, ignored=plan.ignored)

    def _begin(
        self, kind: Kind, plan: Plan, method: Method, requests: tuple[int, ...]
    ) -> ErasureFacts:
        records = np.array(plan.records, dtype=np.int64)
        if self.facts.tombstones:
            # before they are erased: nobody may find them without a tombstone afterwards
            tombstones = Tombstones(Path(self.facts.tombstones["file"]))
            tombstones.add(self.ledger.people.contents_of(records))
            tombstones.close()
        is_own = kind == "forget" and not requests
        due = clock.stamp(due_date(None, clock.now())) if is_own else None
        return self.ledger.begin(kind, options_of(method), records, requests=requests, due=due)

    def finishing(self) -> Generator[Event, None, None]:
        """Finish what a killed process left."""
        yield from self.taking_lease()
        try:
            yield from self.continuing()
        finally:
            self.ledger.lease.release()

    def repairing(self) -> Generator[Event, None, Repair]:
        """Make lost objects of the chain again, where they can be."""
        yield from self.taking_lease(is_mending=True)
        try:
            chain = self.chain()
            found = yield from repairing(
                chain, self.trainer, self.ledger.erased(), self.waiting_blocks()
            )
            chain.sweep()
            return found
        finally:
            self.ledger.lease.release()

    def continuing(self) -> Generator[Event, None, ErasureFacts | None]:
        """Finish what was left: training, or an erasure, which is returned; under the lease."""
        self._check_parts()
        chain = self.chain()
        chain.sweep()
        if chain.length < chain.blocks:
            try:
                yield from self._training(chain)
            except LeaseLost:
                forsake(self.ledger, self.vault)
                raise
            mark(self.ledger, self.vault)
        running = self.ledger.running()
        if running is not None:
            try:
                yield from self._carrying_out(running, chain, None, is_waiting=True)
            except ObliviateError as error:
                error.message = f"erasure {running.id}, begun {running.started}: {error.message}"
                error.args = (error.message, error.hint)
                raise
        return running

    def _check_parts(self) -> None:
        if self.ledger.run().parts != self.facts.parts:
            raise ForeignData(
                "the run was extended by another process since it was opened",
                hint="load it again, with the data that it has now",
            )

    def _training(self, chain: Chain) -> Generator[Event, None, None]:
        blocks = range(chain.length + 1, chain.blocks + 1)
        chain.initial_hashes  # noqa: B018 - before there are other states in memory
        start, is_exact = chain.checkpoint(chain.length), self._goes_on_exactly(chain)
        previous, training = start.model, self.trainer.train(start, blocks, self.ledger.erased())
        guarantee: Guarantee = "exact" if is_exact else "approximate"
        del start
        with ThreadPoolExecutor(1) as writer:
            written: Future[None] | None = None
            finished = chain.length
            for item in training:
                if isinstance(item, Event):
                    done = finished + item.done
                    yield replace(item, task="fit", done=done, total=chain.blocks)
                    continue
                if written is not None:
                    written.result()  # one at a time; and it may still need the previous state
                written = chain.aside(
                    writer,
                    previous,
                    _append,
                    *(chain, item, previous, guarantee, self.trainer.parameters),
                )
                previous, finished = item.checkpoint.model, item.block
                yield Event(
                    task="fit",
                    done=finished,
                    total=chain.blocks,
                    block=item.block,
                    loss=item.loss,
                )
            if written is not None:
                written.result()

    def _goes_on_exactly(self, chain: Chain) -> bool:
        return chain.entries[-1].guarantee == "exact" and not self.changed_environment()

    def _carrying_out(
        self, facts: ErasureFacts, chain: Chain, trace: Trace | None, *, is_waiting: bool
    ) -> Generator[Event, None, Outcome]:
        """Carry an erasure out, or take it back.

        One that nobody waits for at this moment, such as that of a killed process, is taken back
        only where trying again cannot help, and its requests are not refused: whoever asked is not
        there to hear of it.
        """
        try:
            outcome = yield from self._erasing_of(facts, chain, trace).run()
        except Exception as error:
            is_lost = isinstance(error, _OUT_OF_REACH)
            if isinstance(error, LeaseLost):
                forsake(self.ledger, self.vault)
            if not (is_lost or (is_waiting and isinstance(error, _ASK_AGAIN))):
                self.ledger.give_up(facts.id, str(error), is_refused=not is_waiting)
                chain.sweep()
            raise
        chain.sweep()
        self._sample_again()
        return outcome

    def _trace(self, method: Method, records: NDArray[np.int64], chain: Chain) -> Trace | None:
        """What follows the trace as a function, if the method does; it reads the records once."""
        if not (method.functional and len(records)):
            return None
        gone = np.union1d(self.ledger.erased(), records)
        return trace_of(self.trainer, chain, records, gone, exponent_of(self.ledger.erasures()))

    def _erasing_of(self, facts: ErasureFacts, chain: Chain, trace: Trace | None) -> Erasing:
        method = method_from(facts.method)
        records = self.ledger.records_of_erasure(facts.id)
        plan = self.plan(records, method.name)
        start = plan.start or 1
        doubts = [
            f"the run was made with {name} {then}, not {now}"
            for name, (then, now) in self.changed_environment().items()
        ]
        return Erasing(
            chain=chain,
            trainer=self.trainer,
            ledger=self.ledger,
            number=facts.id,
            plan=plan,
            method=method,
            erased=self.ledger.erased(running=facts.id),
            difference=Difference(
                self.trainer.parameters,
                self.trainer.buffers,
                is_kept=not isinstance(method, Exact),
            ),
            is_exact=chain.entries[start - 1].guarantee == "exact" and not doubts,
            staged=self.ledger.staged(facts.id),
            trace=trace or self._trace(method, records, chain),
            doubts=doubts,
            unchecked=frozenset(
                each.id
                for each in self.ledger.erasures()
                if each.state in ERASED and not each.outcome.get("reproduced")
            ),
        )

    def _sample_again(self) -> None:
        """Know the dataset by other records in the place of erased ones."""
        facts = self.ledger.run()  # as it is now: the key may have been destroyed
        known = facts.samples
        count = SAMPLED_RECORDS * len(self.facts.parts) - len(known)
        if not count:
            return
        left_out = np.union1d(self.ledger.erased(), sorted(known))
        fresh = sampled(self.facts.records, self.trainer.recipe.seed, left_out, count)
        self.ledger.add_samples(content_hashes(self.trainer, fresh, facts.content_key))
