"""Run: the facade that wires the rooms together. Make one with `fit`, open one with `load`."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from obliviate.chain import Chain
from obliviate.environment import BITS_DEPEND_ON, environment_facts
from obliviate.erasure import Erasing
from obliviate.errors import (
    InvalidOption,
    Mismatch,
    NothingLeft,
    ObliviateError,
    RunDamaged,
    RunLocked,
    RunUnfinished,
    StorageFull,
    TrainingFailed,
)
from obliviate.identity import SAMPLED_RECORDS, check_data, check_recipe, content_hashes, sampled
from obliviate.ledger import Ledger
from obliviate.lock import writing
from obliviate.making import (
    LEDGER_NAME,
    VAULT_NAME,
    data_length,
    layout_of,
    local_folder,
)
from obliviate.naming import record_ids, records_of_subjects
from obliviate.plan import EXPECTED_LAG, Plan, make_plan
from obliviate.progress import Event, watch
from obliviate.residual import DeepObliviate, Exact, Method, method_of
from obliviate.results import Erasure, Status
from obliviate.stitch import Difference
from obliviate.training import Trainer, load_state, made_model
from obliviate.vault import Vault
from obliviate.verification import Verification, verifying

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn
    from torch.utils.data import Dataset

    from obliviate.ledger import ErasureFacts
    from obliviate.ledger.facts import Guarantee
    from obliviate.recipe import Recipe

    Kind = Literal["forget", "settle"]

DEFAULT_METHOD = DeepObliviate.name


class Run:
    """A trained chain that can forget.

    Reading is safe from any number of processes. Whatever writes (`forget`, `settle`) takes the
    run's lock, and first finishes what a killed process left unfinished. Each of them has a twin
    that yields its progress instead of drawing it: `forgetting`, `settling`, `verifying`.
    """

    def __init__(self, folder: Path, recipe: Recipe, data: Dataset[Any]) -> None:
        """Open a run; see `load`."""
        self.folder, self.recipe, self.data = folder, recipe, data
        self.ledger = Ledger(folder / LEDGER_NAME)
        self.vault = Vault(folder / VAULT_NAME)
        self.facts = self.ledger.run()
        self.trainer = Trainer(
            recipe,
            data,
            layout_of(recipe, self.facts.records, self.facts.blocks, self.facts.smallest_batch),
            threads=int(self.facts.environment["threads"]),
        )
        check_recipe(self.facts, self.trainer.fingerprint())
        self._sweep_if_free()
        check_data(self.facts, self.trainer, data_length(data), self._erased_or_waiting())

    @property
    def model(self) -> nn.Module:
        """The model as it is now: a new module, in eval mode."""
        chain = self._finished_chain()
        try:
            return self._model(chain)
        except RunDamaged:
            if chain.is_current():
                raise
        return self._model(self._finished_chain())  # another process rewrote it while we read

    @property
    def digest(self) -> str:
        """The sha256 of the model's state, in hex."""
        return _text(self._finished_chain().entries[-1].digest)

    @property
    def guarantee(self) -> Guarantee:
        """Of the model: "exact" or "approximate"."""
        return self._finished_chain().entries[-1].guarantee

    def status(self) -> Status:
        """How the run stands."""
        chain = self.chain()
        is_finished = chain.length == chain.blocks
        first = chain.first_approximate
        return Status(
            records=self.facts.records,
            erased=len(self.ledger.erased()),
            blocks=chain.blocks,
            blocks_done=chain.length,
            guarantee=chain.entries[-1].guarantee if is_finished else None,
            digest=chain.entries[-1].digest if is_finished else None,
            first_approximate=first,
            seconds_to_settle=sum(entry.seconds for entry in chain.entries[first:])
            if first
            else 0.0,
            erasures=tuple(self.ledger.erasures()),
        )

    def changed_environment(self) -> dict[str, tuple[str, str]]:
        """What bits depend on and has changed since the run was made: name -> (then, now).

        While there is something, no replay can be equal to the original training: what is erased is
        erased, but the guarantee is "approximate", also after `settle`.
        """
        now = environment_facts() | {"threads": self.facts.environment["threads"]}
        return {
            name: (then, now[name])
            for name, then in self.facts.environment.items()
            if name in BITS_DEPEND_ON and now[name] != then
        }

    def _sweep_if_free(self) -> None:
        """Destroy what a process that was killed after its commit had still to destroy."""
        if self.ledger.keys("condemned"):
            with contextlib.suppress(RunLocked, StorageFull), writing(self.folder):
                self.chain().sweep()

    def chain(self) -> Chain:
        """The chain as it is now."""
        return Chain(self.ledger, self.vault, self.facts.blocks, self.trainer.variances)

    # Erasing

    def preview(
        self,
        records: Iterable[int] | None = None,
        subjects: Iterable[str] | None = None,
        method: str | Method = DEFAULT_METHOD,
    ) -> Plan:
        """What a request would touch and cost; nothing changes. See `forget` for the errors."""
        named = self._named(records, subjects)
        return self._plan(named, method_of(method), self._finished_chain())

    def forget(
        self,
        records: Iterable[int] | None = None,
        subjects: Iterable[str] | None = None,
        method: str | Method = DEFAULT_METHOD,
    ) -> Erasure:
        """Erase records, for good.

        Args:
            records: Their ids.
            subjects: People, all of whose records are erased.
            method: "deepobliviate" (fast, approximate), "exact", or an object with options such as
                `ob.DeepObliviate(epsilon=0.02)`.

        Raises:
            UnknownRecord, UnknownSubject, UnknownMethod, InvalidOption: The request is wrong.
            NothingLeft: It would erase every record.
            RunUnfinished: The run has not been trained to its end.
            RunLocked: Another live process is writing to the run.
            NotFinite, TrainingFailed, StorageFull, RunDamaged: It could not be carried out and was
                taken back.
        """
        return watch(self.forgetting(records, subjects, method))

    def forgetting(
        self,
        records: Iterable[int] | None = None,
        subjects: Iterable[str] | None = None,
        method: str | Method = DEFAULT_METHOD,
    ) -> Generator[Event, None, Erasure]:
        """`forget`, yielding its progress."""
        chosen, named = method_of(method), self._named(records, subjects)
        self._check_finished(self.ledger.length())
        self._left_of(named)
        return (yield from self._erasing("forget", named, chosen))

    def settle(self) -> Erasure:
        """Replace everything approximate in the chain by exact replay.

        Raises:
            RunUnfinished, RunLocked, NotFinite, TrainingFailed, StorageFull, RunDamaged: See
            `forget`.
        """
        return watch(self.settling())

    def settling(self) -> Generator[Event, None, Erasure]:
        """`settle`, yielding its progress."""
        self._check_finished(self.ledger.length())
        return (yield from self._erasing("settle", np.array([], dtype=np.int64), Exact()))

    def verify(self, blocks: Iterable[int] | None = None) -> Verification:
        """Replay stored blocks and compare digests; all of them if none is named.

        Raises:
            InvalidOption: There is no such block.
        """
        return watch(self.verifying(blocks))

    def verifying(
        self, blocks: Iterable[int] | None = None
    ) -> Generator[Event, None, Verification]:
        """`verify`, yielding its progress."""
        waiting = self.trainer.layout.block_of(self._waiting())
        return (
            yield from verifying(
                self.chain(),
                self.trainer,
                blocks,
                self.ledger.erased(),
                frozenset(waiting.tolist()),
            )
        )

    # Inside

    def _named(
        self, records: Iterable[int] | None, subjects: Iterable[str] | None
    ) -> NDArray[np.int64]:
        ids = record_ids(() if records is None else records, self.facts.records)
        people = () if subjects is None else subjects
        ids = np.union1d(
            ids, records_of_subjects(people, self.ledger, self.facts, str(self.folder))
        )
        if not len(ids):
            raise InvalidOption(
                "the request names nobody", hint="give records=[...] or subjects=[...]"
            )
        return ids

    def _left_of(self, named: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The named records that are not erased yet, and those that are."""
        erased = self.ledger.erased()
        ids = np.setdiff1d(named, erased)
        if len(ids) and len(erased) + len(ids) == self.facts.records:
            raise NothingLeft(
                "the request would erase every record there is",
                hint="a model of nobody cannot be trained; delete the run's folder instead",
            )
        return ids, np.intersect1d(named, erased)

    def _plan(self, named: NDArray[np.int64], method: Method, chain: Chain) -> Plan:
        ids, ignored = self._left_of(named)
        blocks = self.trainer.layout.block_of(ids)
        return make_plan(
            method=method.name,
            block_of=dict(zip(ids.tolist(), blocks.tolist(), strict=True)),
            ignored=ignored.tolist(),
            seconds=[entry.seconds for entry in chain.entries[1:]],
            first_approximate=chain.first_approximate,
            expected_lag=self._expected_lag(),
        )

    def _expected_lag(self) -> float:
        lengths = [
            last - first + 1
            for facts in self.ledger.erasures()
            if facts.method.get("name") != Exact.name
            for first, last in facts.outcome.get("segments", [])
        ]
        return float(np.median(lengths)) if lengths else EXPECTED_LAG

    def _erasing(
        self, kind: Kind, named: NDArray[np.int64], method: Method
    ) -> Generator[Event, None, Erasure]:
        with writing(self.folder):
            chain, resumed = yield from self.continuing()
            started = time.perf_counter()
            plan = self._plan(named, method, chain)
            if plan.records or plan.start is not None:
                options = {"name": method.name} | vars(method)
                facts = self.ledger.begin(kind, options, np.array(plan.records, dtype=np.int64))
                yield from self._carrying_out(facts, chain)
                seconds = time.perf_counter() - started
                return self._erasure(chain, facts.id, plan.ignored, seconds)
            is_same = resumed is not None and resumed.kind == kind
            if (
                resumed
                and is_same
                and np.array_equal(self.ledger.records_of_erasure(resumed.id), named)
            ):
                return self._erasure(chain, resumed.id, (), 0.0)
            return self._erasure(chain, None, plan.ignored, 0.0)

    def continuing(self) -> Generator[Event, None, tuple[Chain, ErasureFacts | None]]:
        """Finish what a killed process left: training, or an erasure, which is returned too."""
        chain = self.chain()
        chain.sweep()
        if chain.length < chain.blocks:
            yield from self._training(chain)
        running = self.ledger.running()
        if running is not None:
            try:
                yield from self._carrying_out(running, chain, is_resumed=True)
            except ObliviateError as error:
                error.message = f"erasure {running.id}, begun {running.started}: {error.message}"
                error.args = (error.message, error.hint)
                raise
        return chain, running

    def _training(self, chain: Chain) -> Generator[Event, None, None]:
        blocks = range(chain.length + 1, chain.blocks + 1)
        start = chain.checkpoint(chain.length)
        previous, training = start.model, self.trainer.train(start, blocks, self.ledger.excluded())
        del start
        for item in training:
            if isinstance(item, Event):
                done = chain.length + item.done
                yield replace(item, task="fit", done=done, total=chain.blocks)
                continue
            chain.append(item, previous)
            previous = item.checkpoint.model
            yield Event(
                task="fit", done=item.block, total=chain.blocks, block=item.block, loss=item.loss
            )

    def _carrying_out(
        self, facts: ErasureFacts, chain: Chain, *, is_resumed: bool = False
    ) -> Generator[Event, None, None]:
        """Carry an erasure out, or take it back.

        One that a killed process began is taken back only where trying again cannot help: whoever
        asked for it is not there to hear of it.
        """
        try:
            yield from self._erasing_of(facts, chain).run()
        except (TrainingFailed, StorageFull) as error:
            if not is_resumed:
                self._give_up(facts, chain, error)
            raise
        except Exception as error:
            self._give_up(facts, chain, error)
            raise
        chain.sweep()
        self._sample_again()

    def _give_up(self, facts: ErasureFacts, chain: Chain, error: Exception) -> None:
        self.ledger.give_up(facts.id, str(error))
        chain.sweep()

    def _erasing_of(self, facts: ErasureFacts, chain: Chain) -> Erasing:
        trainer = self.trainer
        options = dict(facts.method)
        method = method_of(str(options.pop("name")), **options)
        records = self.ledger.records_of_erasure(facts.id)
        plan = self._plan(records, method, chain)
        start = plan.start or 1
        changed = self.changed_environment()
        return Erasing(
            chain=chain,
            trainer=trainer,
            ledger=self.ledger,
            number=facts.id,
            plan=plan,
            method=method,
            erased=self.ledger.erased(running=facts.id),
            difference=Difference(trainer.parameters),
            is_exact=chain.entries[start - 1].guarantee == "exact" and not changed,
            staged=self.ledger.staged(facts.id),
            changed=changed,
        )

    def _sample_again(self) -> None:
        """Know the dataset by other records in the place of erased ones."""
        known = self.ledger.run().samples
        count = SAMPLED_RECORDS - len(known)
        if not count:
            return
        left_out = np.union1d(self.ledger.erased(), sorted(known))
        fresh = sampled(self.facts.records, self.recipe.seed, left_out, count)
        self.ledger.add_samples(content_hashes(self.trainer, fresh, self.facts.subject_key))

    def _erasure(
        self, chain: Chain, number: int | None, ignored: tuple[int, ...], seconds: float
    ) -> Erasure:
        last = chain.entries[-1]
        facts = self.ledger.erasure(number) if number is not None else None
        outcome: Mapping[str, Any] = facts.outcome if facts else {"stop_reason": "nothing to do"}
        segments = tuple((first, last) for first, last in outcome.get("segments", ()))
        seconds = seconds or outcome.get("seconds", 0.0)
        full = sum(entry.seconds for entry in chain.entries)
        return Erasure(
            model=self._model(chain),
            digest=_text(last.digest),
            digest_before=outcome.get("digest_before", last.digest),
            guarantee=last.guarantee,
            method=str(facts.method["name"]) if facts else "none",
            records=facts.records if facts else 0,
            ignored=ignored,
            blocks_total=chain.blocks,
            blocks_replayed=sum(last - first + 1 for first, last in segments),
            segments=segments,
            residual_memory=tuple(outcome.get("residual_memory", ())),
            stop_reason=outcome["stop_reason"],
            predicted_tail=outcome.get("predicted_tail"),
            seconds=seconds,
            speedup=full / seconds if seconds else float("inf"),
            number=number,
        )

    def _finished_chain(self) -> Chain:
        chain = self.chain()
        self._check_finished(chain.length)
        return chain

    def _check_finished(self, length: int) -> None:
        if length < self.facts.blocks:
            raise RunUnfinished(
                f"{self.folder} has been trained to block {length} of {self.facts.blocks}",
                hint="call fit again with the same arguments: it goes on where it was",
            )

    def _model(self, chain: Chain) -> nn.Module:
        with self.trainer.environment.entered():
            model = made_model(self.recipe)
        load_state(model, chain.state(chain.blocks))
        return model.eval()

    def _waiting(self) -> NDArray[np.int64]:
        running = self.ledger.running()
        none = np.array([], dtype=np.int64)
        return none if running is None else self.ledger.records_of_erasure(running.id)

    def _erased_or_waiting(self) -> NDArray[np.int64]:
        return np.union1d(self.ledger.erased(), self._waiting())


def load(path: str | Path, recipe: Recipe, data: Dataset[Any]) -> Run:
    """Open a run.

    Args:
        path: Its folder.
        recipe: The recipe that it was made with.
        data: The dataset that it was made with. Erased records are never read: anything may stand
            in their places.

    Raises:
        RunMissing: There is none.
        ForeignRecipe, ForeignData: It was made with something else.
        RunDamaged, NewerFormat: It cannot be read.
    """
    return Run(local_folder(path), recipe, data)


def _text(digest: str | None) -> str:
    if digest is None:
        raise Mismatch("the last block has no digest", hint="restore the run folder from a copy")
    return digest
