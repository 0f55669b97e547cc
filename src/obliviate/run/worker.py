"""Writer: the one who may change a run, for as long as it holds the run's lease.

It first finishes what a killed process left, then carries out what was asked for.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from obliviate import clock
from obliviate.chain.chain import Chain
from obliviate.chain.custody import begin, forsake, mark
from obliviate.chain.repair import repairing
from obliviate.desk.policy import due_date
from obliviate.erasure.planner import check_start, left_of, planned
from obliviate.errors import (
    ConnectionLost,
    ForeignData,
    LeaseLost,
    ObliviateError,
    StorageFailed,
    StorageFull,
)
from obliviate.events import Event
from obliviate.ledger.marking import Marking
from obliviate.methods.exact import Exact
from obliviate.methods.registry import options_of
from obliviate.recipe.parts import places_of
from obliviate.run.carried import Carried, Resumed
from obliviate.run.evaluation import Evaluator
from obliviate.run.fingerprint import sample_again
from obliviate.run.onward import training_on
from obliviate.run.prepared import deep_enough, observer_of
from obliviate.run.references import check_given
from obliviate.training.determinism import BITS_DEPEND_ON, environment_facts
from obliviate.vault import VaultSettings

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Literal

    from numpy.typing import NDArray

    from obliviate.chain.repair import Repair
    from obliviate.erasure.plan import Plan
    from obliviate.ledger import ErasureFacts, Ledger, RunFacts
    from obliviate.ledger.outcome import Outcome
    from obliviate.methods.method import Method
    from obliviate.recipe.parts import Places
    from obliviate.run.evaluation import Evaluation
    from obliviate.run.onward import Commit
    from obliviate.run.prepared import Observer
    from obliviate.training.protocol import BlockTrainer
    from obliviate.training.references import References
    from obliviate.vault import Vault

    Kind = Literal["forget", "settle"]

_NOBODY = np.array([], dtype=np.int64)
_ASK_AGAIN = (StorageFull, StorageFailed)
"""What asking again may mend, whoever is asked for."""

_OUT_OF_REACH = (ConnectionLost, LeaseLost)
"""What leaves no way to take anything back."""


class Writer:
    """Changes the chain of a run.

    Attributes:
        patience_seconds: How long to wait for another live process that writes to the run; None:
            until it is done.
        lacks: How many records at the end the dataset lacks; see `growth.lacking`.
        references: What was given at this opening of the run; None where nothing was.
    """

    def __init__(
        self, ledger: Ledger, vault: Vault, trainer: BlockTrainer, facts: RunFacts
    ) -> None:
        self.ledger, self.vault, self.trainer, self.facts = ledger, vault, trainer, facts
        self.marking = Marking(ledger, facts)
        self.lacks = 0
        self.references: References | None = None
        self.patience_seconds: float | None = None

    def chain(self) -> Chain:
        """The chain as it is now."""
        spacing = VaultSettings.of(self.facts.vault).spacing
        facts = self.facts
        return Chain(
            self.ledger,
            self.vault,
            facts.blocks,
            self.trainer.buffers,
            spacing=spacing,
            parts=facts.parts,
        )

    # What a request means

    def left_of(self, named: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The named records that are not erased yet, and those that are.

        Raises:
            NothingLeft: No record would be left.
        """
        return left_of(self.ledger, self.facts.records, named)

    def plan(self, named: NDArray[np.int64], method: Method) -> Plan:
        """What erasing some records would touch and cost, by a method of that name."""
        return planned(self.ledger, self.facts, named, method)

    def places(self, records: NDArray[np.int64]) -> Places:
        """Where some records are trained on, without laying out the whole dataset."""
        return places_of(self.facts.parts, records, self.ledger.records.groups_of(records))

    def changed_environment(self) -> dict[str, tuple[str, str]]:
        """See `Run.changed_environment`."""
        now = environment_facts(self.trainer.recipe.device)
        return {
            name: (then, now.get(name, "none"))
            for name, then in self.facts.environment.items()
            if name in BITS_DEPEND_ON and now.get(name) != then
        }

    def waiting(self) -> NDArray[np.int64]:
        """The records of an erasure that is still to be carried out; sorted.

        Of one that was begun, or of one that an older ledger knows nothing of.
        """
        running, returned = self.ledger.erasures.running(), self.marking.returned()
        if running is None:
            return returned
        return np.union1d(self.ledger.erasures.records_of(running.id), returned)

    def waiting_blocks(self) -> frozenset[int]:
        """The blocks that hold them."""
        return frozenset(self.places(self.waiting()).touched.tolist())

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
            plan = self.plan(named, method)
            if not plan.records and plan.start is None:
                return self._nothing_to_do(kind, named, resumed, chain, plan)
            check_start(plan, method)
            self.check_reach(0 if plan.start is None else chain.length)
            ids = np.array(plan.records, dtype=np.int64)
            self.ledger.check(ids, names=("erased",))
            if plan.start is not None:
                check_given(self, method, ids)
            observer = observer_of(self, method, plan, chain)
            facts = self._begin(kind, plan, method, requests)
            outcome = yield from self._carrying_out(
                facts, chain, observer, is_waiting=bool(requests)
            )
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
        resumed: Resumed | None,
        chain: Chain,
        plan: Plan,
    ) -> Carried:
        """The answer to a request that was carried out before, or that a killed call had begun."""
        if resumed is not None and resumed.error is not None:
            raise resumed.error  # there is nothing else to say
        if resumed is not None and kind == "settle" and resumed.is_again:
            return Carried(chain=chain, number=resumed.facts.id)
        if resumed is not None and resumed.facts.kind == kind:
            its = self.ledger.erasures.records_of(resumed.facts.id)
            if np.array_equal(its, named):
                return Carried(chain=chain, number=resumed.facts.id)
        return Carried(chain=chain, number=None, ignored=plan.ignored)

    def _begin(
        self, kind: Kind, plan: Plan, method: Method, requests: tuple[int, ...]
    ) -> ErasureFacts:
        records = np.array(plan.records, dtype=np.int64)
        is_own = kind == "forget" and not requests
        due = clock.stamp(due_date(None, clock.now())) if is_own else None
        return self.ledger.erasures.begin(
            kind, options_of(method), records, requests=requests, due=due
        )

    def finishing(self) -> Generator[Event, None, Resumed | None]:
        """Finish an erasure that a killed process left."""
        yield from self.taking_lease()
        try:
            return (yield from self.continuing())
        finally:
            self.ledger.lease.release()

    def training(self, evaluation: Evaluation | None = None) -> Generator[Event, None, None]:
        """Train on the blocks that are still to come, after what a killed process left."""
        yield from self.taking_lease()
        try:
            yield from self.continuing()
            yield from self.going_on(evaluation=evaluation)
        finally:
            self.ledger.lease.release()

    def repairing(self) -> Generator[Event, None, Repair]:
        """Make lost objects of the chain again, where they can be."""
        yield from self.taking_lease(is_mending=True)
        try:
            self.marking.check()
            chain = self.chain()
            found = yield from repairing(
                chain, self.trainer, self.ledger.records.erased(), self.waiting_blocks()
            )
            chain.sweep()
            return found
        finally:
            self.ledger.lease.release()

    def continuing(self) -> Generator[Event, None, Resumed | None]:
        """Finish an erasure that was left; under the lease.

        One that cannot be carried out is taken back, and its requests wait again: it must not keep
        others from being forgotten.
        """
        self._check_parts()
        self.marking.check()
        chain = self.chain()
        chain.sweep()
        running = self.ledger.erasures.running()
        if running is None:
            return (yield from self._erasing_again(chain))
        requests = tuple(self.ledger.requests.of_erasure(running.id))
        try:
            yield from self._carrying_out(running, chain, None, is_waiting=True)
        except (*_OUT_OF_REACH, *_ASK_AGAIN):
            raise
        except Exception as error:
            if isinstance(error, ObliviateError):
                error.message = f"erasure {running.id}, begun {running.started}: {error.message}"
                error.args = (error.message, error.hint)
            return Resumed(facts=running, requests=requests, error=error)
        return Resumed(facts=running, requests=requests)

    def going_on(
        self,
        commit_first: Commit | None = None,
        left_out: NDArray[np.int64] = _NOBODY,
        evaluation: Evaluation | None = None,
    ) -> Generator[Event, None, None]:
        """Train on the blocks that are still to come; under the lease.

        Args:
            commit_first: See `training_on`.
            left_out: Records to leave out beside those that the ledger says are erased.
            evaluation: What is measured on the way, of a run that was not extended yet.
        """
        chain, ledger, parts = self.chain(), self.ledger, self.facts.parts
        if chain.length == chain.blocks:
            return
        is_first = evaluation is not None and len(parts) == 1
        evaluator = Evaluator(evaluation, self.trainer, ledger) if evaluation and is_first else None
        try:
            is_early = yield from training_on(
                chain,
                self.trainer,
                np.union1d(ledger.records.erased(), left_out),
                guarantee="exact" if self._goes_on_exactly(chain) else "approximate",
                commit_first=commit_first,
                evaluator=evaluator,
            )
            if is_early:
                ledger.end_early(0, ledger.chain.length() // parts[0].blocks)
        except LeaseLost:
            forsake(self.ledger, self.vault)
            raise
        mark(self.ledger, self.vault)

    def _erasing_again(self, chain: Chain) -> Generator[Event, None, Resumed | None]:
        """Erase what was erased before, where the ledger is older than that."""
        returned = self.marking.returned()
        if not len(returned):
            return None
        plan = self.plan(returned, Exact())
        self.check_reach(0 if plan.start is None else chain.length)
        facts = self._begin("forget", plan, Exact(), ())
        yield from self._carrying_out(facts, chain, None, is_waiting=True)
        return Resumed(facts=facts, requests=(), is_again=True)

    def _check_parts(self) -> None:
        if self.ledger.run().parts != self.facts.parts:
            raise ForeignData(
                "the run was extended, or ended early, by another process since it was opened",
                hint="load it again, with the data that it has now",
            )

    def check_reach(self, last: int) -> None:
        """See that the dataset has all records of the blocks up to one.

        Raises:
            ForeignData: It lacks those of an extension.
        """
        part = self.trainer.layout.parts[-1]
        if self.lacks and last >= part.first_block:
            raise ForeignData(
                f"the run was extended by {part.records} records, on some of which it was trained; "
                "they are not in this dataset",
                hint="load the run with the old records followed by the new ones",
            )

    def _goes_on_exactly(self, chain: Chain) -> bool:
        return chain.entries[-1].guarantee == "exact" and not self.changed_environment()

    def _carrying_out(
        self, facts: ErasureFacts, chain: Chain, observer: Observer, *, is_waiting: bool
    ) -> Generator[Event, None, Outcome]:
        """Carry an erasure out, or take it back.

        The requests of one that nobody waits for at this moment, such as that of a killed process,
        are not refused but wait again: whoever asked is not there to hear of it.
        """
        try:
            self.marking.set(facts)
            outcome = yield from deep_enough(self, facts, chain, observer)
        except Exception as error:
            is_lost = isinstance(error, _OUT_OF_REACH)
            if isinstance(error, LeaseLost):
                forsake(self.ledger, self.vault)
            if not (is_lost or (is_waiting and isinstance(error, _ASK_AGAIN))):
                self.marking.take_back(facts)
                self.ledger.erasures.give_up(facts.id, str(error), is_refused=not is_waiting)
                chain.sweep()
            raise
        chain.sweep()
        sample_again(self.ledger, self.trainer, self.lacks)
        return outcome
