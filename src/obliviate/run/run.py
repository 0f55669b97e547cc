"""Run: the facade that wires the rooms together. Make one with `fit`, open one with `load`."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from obliviate.chain.custody import opened, remove_orphans
from obliviate.chain.inventory import taking_stock
from obliviate.chain.verification import (
    Verification,
    block_numbers,
    check_head,
    comparing_data,
    journal_faults,
    verifying,
)
from obliviate.desk.desk import chosen_method
from obliviate.desk.policy import policy_of
from obliviate.erasure.results import Erasure, Extension, Work
from obliviate.errors import RunDamaged, RunLocked, StorageFailed, StorageFull
from obliviate.events import finish, watch, watched
from obliviate.ledger import Ledger
from obliviate.methods.exact import Exact
from obliviate.options import flag
from obliviate.run.arguments import check_apart, data_length
from obliviate.run.comparison import rehearse_all
from obliviate.run.exportable import Exportable
from obliviate.run.extend import (
    Addition,
    extending,
    going_on,
    is_unfinished,
    joined,
    lacking,
    resumed,
)
from obliviate.run.fingerprint import check_data, check_recipe
from obliviate.run.followers import Counting, Erasing, Extending, Verifying, Working
from obliviate.run.following import led, led_at_once
from obliviate.run.make import layout_of, trainer_of
from obliviate.run.work import working
from obliviate.run.worker import Writer
from obliviate.text import READS_MORE
from obliviate.training.base import moving_in
from obliviate.training.references import References

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn
    from torch.utils.data import Dataset

    from obliviate.chain.chain import Chain
    from obliviate.chain.inventory import Inventory
    from obliviate.desk.policy import Policy
    from obliviate.erasure.results import Status
    from obliviate.events import Events
    from obliviate.ledger.facts import Guarantee
    from obliviate.methods.method import Method
    from obliviate.recipe.recipe import Recipe
    from obliviate.recipe.subjects import Given, Subject
    from obliviate.run.extend import Choice, Over
    from obliviate.training.protocol import BlockTrainer
    from obliviate.training.references import Apart
    from obliviate.vault import Seal


class Run(Exportable):
    """A trained chain that can forget.

    Reading is safe from any number of processes. Whatever writes (`forget`, `settle`) takes the
    run's lock, and first finishes what a killed process left unfinished. What
    takes long draws its progress; `run.forget.events(...)` takes the same and yields it instead.

    Attributes:
        is_rehearsed: Whether the ranks that are called have made the first steps together.
    """

    is_rehearsed = False

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        data: Dataset[Any],
        *,
        reference: Apart | None = None,
        patience_seconds: float | None = None,
        seal: Seal | None = None,
        before: BlockTrainer | None = None,
    ) -> None:
        """Open a run; see `load`, and for `before` `trainer_of`."""
        self.folder, self.recipe, self._patience_seconds = folder, recipe, patience_seconds
        self.reference = reference
        self.ledger = Ledger(folder, patience_seconds)
        self.ledger.check(names=("runs", "parts", "samples"))  # before any of it is believed
        self.vault = opened(self.ledger, folder, seal)
        self.ledger.unlock(self.vault.unwrapped)
        self.renew(data, before)
        check_recipe(self.facts, self.trainer.fingerprint())
        with self.ledger.understanding():
            self._sweep_if_free()
            self._check_data()

    def renew(self, data: Dataset[Any], before: BlockTrainer | None = None) -> None:
        """Take up what the ledger says of the run, and the data that goes with it."""
        self.data, self.facts = data, self.ledger.run()
        self.trainer = trainer_of(
            self.recipe,
            data,
            layout_of(
                self.recipe,
                self.facts.parts,
                self.ledger.records.groups,
                self.facts.smallest_batch,
            ),
            environment=self.facts.environment,
            content_key=self.facts.content_key,
            moving=moving_in(self.facts.fingerprint),
            before=before,
        )
        self.writer = Writer(self.ledger, self.vault, self.trainer, self.facts)
        self.writer.patience_seconds = self._patience_seconds
        self.writer.lacks = lacking(self.facts, data_length(data))
        if self.reference is not None:
            self.writer.references = References(
                self.recipe, self.reference, self.trainer.environment, self.facts.content_key
            )

    def close(self) -> None:
        """Let go of the ledger; what is asked of the run afterwards opens it again."""
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def model(self) -> nn.Module:
        """The model as it is now: a new module, in eval mode.

        While an extension is unfinished, it is the model after the blocks that were trained on.

        Raises:
            RunUnfinished: The first training has not come to its end.
            RunOutdated: It holds records that were erased since: the run is an older copy.
        """
        return self._served.model()

    @property
    def digest(self) -> str:
        """The sha256 of the model's state, in hex: all that is trained, and all buffers."""
        return self._served.digest()

    @property
    def guarantee(self) -> Guarantee:
        """Of the model: "exact" or "approximate"."""
        return self._served.chain().entries[-1].guarantee

    def status(self) -> Status:
        """How the run stands."""
        # what the recipe declares now may have been found out after the run was made
        caveat = READS_MORE if self.recipe.reads == "more" else None
        return replace(self.desk.status(), caveat=caveat)

    def changed_environment(self) -> dict[str, tuple[str, str]]:
        """What bits depend on and has changed since the run was made: name -> (then, now).

        While there is something, no replay can be equal to the original training: what is erased is
        erased, but the guarantee is "approximate", also after `settle`.
        """
        return self.writer.changed_environment()

    def _sweep_if_free(self) -> None:
        """Destroy what a process that was killed after its commit had still to destroy."""
        if not self.ledger.objects.keys("condemned"):
            return
        with contextlib.suppress(RunLocked, StorageFull, StorageFailed, RunDamaged):
            finish(self.writer.sweeping(patience_seconds=0))

    def rehearse(self) -> None:
        """Let all ranks make the first steps, where several are called: once while it is open."""
        if not self.is_rehearsed:
            rehearse_all(self.trainer, self.unread())
            self.is_rehearsed = True

    def unread(self) -> NDArray[np.int64]:
        """Sorted ids of the records that must not be read, or that the dataset lacks."""
        length = data_length(self.data)
        waiting = np.union1d(self.ledger.records.erased(), self.writer.waiting())
        beyond = np.arange(length, length + self.writer.lacks, dtype=np.int64)
        return np.union1d(waiting, beyond)

    def _check_data(self) -> None:
        records = data_length(self.data) + self.writer.lacks
        check_data(self.facts, self.trainer, records, self.unread())

    def chain(self) -> Chain:
        """The chain as it is now."""
        return self.writer.chain()

    # Erasing

    @watched
    @led(Erasing)
    def forget(
        self,
        records: Iterable[int] | None = None,
        subjects: Iterable[Subject] | None = None,
        method: str | Method | None = None,
    ) -> Events[Erasure]:
        """Erase records, for good.

        Args:
            records: Their ids.
            subjects: People, all of whose records are erased.
            method: "deepobliviate" (fast, approximate), "calibrated" (the same, stitching only what
                training would not have faded by itself), "exact", or an object with options such as
                `ob.DeepObliviate(epsilon=0.02)`. If None, "calibrated" where the run was made with
                references, else "deepobliviate".

        Raises:
            UnknownRecord, UnknownSubject, UnknownMethod, InvalidOption: The request is wrong.
            InvalidRecipe: The loss has no form for single records, which "calibrated" needs.
            NothingLeft: It would erase every record.
            ForeignData: The dataset lacks records that would have to be replayed.
            RunLocked: Another live process is writing to the run.
            NotFinite, TrainingFailed, StorageFull, RunDamaged: It could not be carried out and was
                taken back.
        """
        chosen = chosen_method(method, self.facts)
        named = self.desk.named(records, subjects, is_final=True)
        self.writer.left_of(named)
        return self._served.erasure((yield from self.writer.erasing("forget", named, chosen)))

    @watched
    @led(Erasing)
    def settle(self) -> Events[Erasure]:
        """Replace everything approximate in the chain by exact replay.

        Raises:
            ForeignData, RunLocked, NotFinite, TrainingFailed, StorageFull, RunDamaged: See
            `forget`.
        """
        nobody = np.array([], dtype=np.int64)
        return self._served.erasure((yield from self.writer.erasing("settle", nobody, Exact())))

    @watched
    @led(Working)
    def work(self, policy: Policy | None = None, *, everything: bool = False) -> Events[Work]:
        """Carry out what a policy says is to be done now.

        Args:
            policy: By which rules; see `Policy`.
            everything: Do not wait for deadlines: erase all that waits, and settle.

        Returns:
            What was carried out, in order: a list, whose `failed` says which requests could not be
            carried out and why. They go on waiting, and keep nobody else from being forgotten.

        Raises:
            RunLocked, StorageFull, ConnectionLost, ForeignData: Nothing can be carried out.
        """
        is_everything = flag(everything, "everything")
        come = yield from working(self.writer, policy_of(policy), everything=is_everything)
        return Work(map(self._served.erasure, come.carried), come.failed)

    # Growing

    @watched
    @led(Extending)
    def extend(
        self,
        data: Dataset[Any],
        *,
        blocks: int | None = None,
        epochs: int | None = None,
        over: Over = "new",
        subjects: Given | None = None,
        exclude: Iterable[int] = (),
        requested: Choice = "exclude",
    ) -> Events[Extension]:
        """Train on new records, in blocks behind those there are.

        Every record is tried first, and the records become part of the run with the first block
        that was trained on them: what fails before leaves the run as it was. What fails later keeps
        the blocks that were finished; the run serves and forgets with them, and goes on when this
        is called again, also with mended data.

        Afterwards the run's dataset is the old one followed by the new one: give
        `torch.utils.data.ConcatDataset([old, new])` to `load`. Ids do not shift. A learning-rate
        schedule runs anew over the new blocks.

        Args:
            data: The new records.
            blocks: How many blocks each epoch is cut into; of about the size of the first ones if
                None.
            epochs: How many epochs are trained; if None, as many as the recipe says over the new
                records alone, and one over all.
            over: "new" trains on the new records alone: nothing of the old ones moves, and who is
                only among them is forgotten as before. "all" trains on old and new together, as one
                training goes on: everybody is found in these epochs too.
            subjects: Whose each is; see `fit`.
            exclude: New records to leave out, by their ids in the run.
            requested: What becomes of records of people all of whose records are named by requests
                that wait: "exclude" leaves them out, "refuse" raises.

        Raises:
            RequestWaits: Some are of people who wait to be forgotten.
            NotFinite, TrainingFailed: A record cannot be trained on, or training failed.
            InvalidRecipe, InvalidOption: Something cannot be used; nothing was changed.
            ForeignData: An extension was interrupted, and these are not its records.
            Tombstoned: Some of the records were erased before.
        """
        if self.reference is not None:
            check_apart(self.reference.data, data)
        addition = Addition(
            data=data,
            blocks=blocks,
            epochs=epochs,
            over=over,
            subjects=subjects,
            exclude=exclude,
            requested=requested,
        )
        if is_unfinished(self.writer) or self.writer.lacks:
            self.renew(resumed(self.writer, self.data, addition), self.trainer)
            return (yield from going_on(self.writer, addition))
        both = joined(self.data, data)
        try:
            return (yield from extending(self.writer, both, addition))
        finally:
            if self.ledger.run().parts != self.facts.parts:  # as far as it came, it is there
                self.renew(both, self.trainer)

    @watched
    @led(Verifying)
    def verify(
        self,
        blocks: Iterable[int] | None = None,
        *,
        journal_head: str | None = None,
        repair: bool = False,
        data: bool = False,
    ) -> Events[Verification]:
        """Replay stored blocks and compare digests; all of them, and the journal, if none is named.

        Args:
            blocks: Their numbers.
            journal_head: What `status` gave as `journal_head` at an earlier time: checks that the
                journal still holds that entry, and all before it.
            repair: First make lost objects again: each block from the one before. What was
                stitched cannot be made again; `settle` puts exact states in its place.
            data: Also read every retained record of these blocks, and compare it with what it was
                when it was trained on.

        Raises:
            InvalidOption: There is no such block, or this is no head of a journal.
            RunDamaged: The ledger cannot even be read.
            RunLocked, StorageFull: It could not be repaired.
        """
        is_repairing, is_reading = flag(repair, "repair"), flag(data, "data")
        blocks = None if blocks is None else block_numbers(blocks, self.ledger.chain.length())
        check_head(journal_head)
        self.writer.check_reach(
            self.ledger.chain.length() if blocks is None else max(blocks, default=0)
        )
        repaired = (yield from self.writer.repairing()) if is_repairing else None
        is_journal_due = blocks is None or journal_head is not None
        faults = journal_faults(self.ledger, journal_head) if is_journal_due else ()
        given = (
            self.chain(),
            self.trainer,
            blocks,
            self.ledger.records.erased(),
            self.writer.waiting_blocks(),
        )
        found = yield from verifying(*given)
        if is_reading:
            found = replace(found, changed=(yield from comparing_data(*given)))
        if repaired is not None:  # what is still lost counts as failed, whatever was asked for
            found = replace(
                found, rebuilt=repaired.rebuilt, failed={**repaired.left, **found.failed}
            )
        return replace(found, journal=faults)

    def stock(self, *, check: bool = False) -> Inventory:
        """What lies in the vault.

        Args:
            check: Read every object, and say what is damaged and how it can be had back.

        Raises:
            ConnectionLost: The vault's storage cannot be reached.
        """
        is_checking = flag(check, "check")
        return watch(taking_stock(self.ledger, self.vault, self.chain(), check=is_checking))

    @led_at_once(Counting)
    def remove_orphans(self) -> tuple[str, ...]:
        """Remove the objects in the vault that no row of the ledger names; `stock` lists them.

        Returns:
            The names of those that were removed.

        Raises:
            RunLocked: Another live process writes to the run: they could be its own.
            LeaseLost: Another process took the run over in the meantime; nothing was removed.
            RunOutdated: The ledger is an older one than the vault's.
            RunDamaged: Objects in use are missing, so that the ledger may not know what is
                nobody's.
        """
        return remove_orphans(self.ledger, self.vault)
