"""Fitting: training a chain, or resuming the training of one that was interrupted."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.chain.spacing import bytes_of, chain_within
from obliviate.desk.subjects import record_ids
from obliviate.disk.paths import local_folder, naming
from obliviate.errors import InvalidOption, RunMissing
from obliviate.events import Events, watched
from obliviate.options import real
from obliviate.recipe.parts import usual_keep
from obliviate.recipe.subjects import Subjects
from obliviate.run.arguments import (
    checked_keep,
    checked_recipe,
    checked_reference,
    cut,
    data_length,
)
from obliviate.run.comparison import words_before, words_of
from obliviate.run.evaluation import Evaluation
from obliviate.run.following import SHARED_FOLDER, led
from obliviate.run.make import MAKING_NAME, check_place, is_made, make, new_trainer, sizes_of
from obliviate.run.references import check_references
from obliviate.run.run import Run
from obliviate.run.tombstoned import tombstone_options
from obliviate.vault import VaultSettings, check_seal, kept_form

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch.utils.data import Dataset

    from obliviate.recipe.recipe import Recipe
    from obliviate.recipe.subjects import Given, GivenReference, Subjects
    from obliviate.run.evaluation import Evaluate, Log, Stop
    from obliviate.run.tombstoned import Choice, Recognised
    from obliviate.training.protocol import BlockTrainer
    from obliviate.vault import Seal


class Fitting:
    """What the ranks behind rank 0 do for `fit`: they open the run that rank 0 has made."""

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset[Any],
        path: str | Path,
        *,
        subjects: Given | None = None,
        reference: GivenReference | None = None,
        seal: Seal | None = None,
        exclude: Iterable[int] = (),
        **options: Any,
    ) -> None:
        """Take what `fit` is given."""
        self.recipe, self._data, self._path, self._seal = recipe, data, path, seal
        self._subjects, self._reference, self._exclude = subjects, reference, exclude
        self._options = {name: value for name, value in options.items() if name not in _OF_RANK_0}
        self._before: BlockTrainer | None = None
        self._run: Run | None = None

    @property
    def words(self) -> Mapping[str, Any]:
        """See `Follower`."""
        recipe = checked_recipe(self.recipe)
        given = {each.name: getattr(recipe, each.name) for each in fields(recipe)}
        people = {"subjects": self._subjects, "exclude": self._exclude}
        return {
            "recipe": words_of(**given),
            "data": {"records": str(data_length(self._data))},
            "options": words_of(path=str(self._path), **people, **self._options),
        }

    def compared(self, words: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Follower`."""
        records = data_length(self._data)
        blocks, people = cut(words["blocks"], self._subjects, records)
        left_out = record_ids(self._exclude, records, what="exclude")
        keep = words["keep"]
        self._before = new_trainer(self.recipe, self._data, records, blocks, people, keep=keep)
        return words_before(self._before, left_out)

    def rehearse(self) -> None:
        """See `Follower`; `fit` does it where it knows whether there is a run."""

    def rehearsed(self) -> BlockTrainer:
        """See `Follower`."""
        return self._before or self._opened().trainer

    def trainer(self, parts: int) -> BlockTrainer:  # noqa: ARG002 - there is no extension yet
        """See `Follower`."""
        return self._opened().trainer

    def _opened(self) -> Run:
        if self._run is None:
            self._run = Run(
                local_folder(self._path),
                self.recipe,
                self._data,
                reference=checked_reference(self._reference, self._data),
                seal=self._seal,
                before=self._before,
            )
            self._before = None
        return self._run

    @staticmethod
    def told(result: Run) -> str:
        """See `Follower`."""
        return result.ledger.name

    def result(self, told: str) -> Run:
        """See `Follower`."""
        run = self._opened()
        if run.ledger.name != told:
            raise RunMissing(f"{run.folder} is another run here", hint=SHARED_FOLDER)
        if run.ledger.run().parts != run.facts.parts:  # training was ended early
            run.renew(self._data, run.trainer)
        return run


_OF_RANK_0 = {"evaluate", "every", "log", "stop", "project"}
"""What only rank 0 needs: the others may be given something else."""


@watched
@led(Fitting)
def fit(
    recipe: Recipe,
    data: Dataset[Any],
    path: str | Path,
    *,
    blocks: int = 100,
    keep: int | None = None,
    subjects: Given | None = None,
    reference: GivenReference | None = None,
    exclude: Iterable[int] = (),
    ledger: str | None = None,
    tombstones: str | Path | None = None,
    reingested: Choice = "exclude",
    recognised: Recognised = "person",
    vault: str | Path | None = None,
    seal: Seal | None = None,
    disk_budget: str | float | None = None,
    evaluate: Evaluate | None = None,
    every: int | None = None,
    log: Log | None = None,
    stop: Stop | None = None,
    project: Mapping[str, str] | None = None,
) -> Events[Run]:
    """Train a chain, or resume the training of one that was interrupted.

    Args:
        recipe: How to train.
        data: A map-style dataset of (input, target); a record's id is its index, for ever.
        path: The folder of the run; made if it is not there.
        blocks: How many blocks an epoch is cut into.
        keep: Of how many of the last epochs every update is kept, for fast erasures to go back to;
            before, there are keyframes far apart, and an exact replay trains the rest again. A
            fifth of the epochs, at least two, if None; at least eight where there are references.
        subjects: Whose each record is: a string, an int or a UUID; several of them in a tuple, a
            list or a set; None where it is nobody's. Kept as keyed hashes of one spelling: case,
            Unicode form and surrounding blanks make no difference.
        reference: A map-style dataset of records of the same kind that are never trained on, 20 or
            more, such as a test set: how a model behaves that never saw a record is read off them
            when somebody is erased. None of them may be a record of `data`, by its content. Give
            (dataset, subjects) where it is known whose they are: records of one person are alike,
            and the interval of what is expected then counts people instead of records.
        exclude: Records to leave out, as if they had been erased before training.
        ledger: The database that the ledger is kept in, such as
            "postgresql+psycopg://user@host/database"; many runs may share it. An SQLite file in
            the run's folder if None.
        tombstones: A file that keeps keyed hashes of the content of erased records, so that they
            are known when they come back; many runs may share it. None are kept if None.
        reingested: What becomes of records that have a tombstone: "exclude" leaves them out,
            "refuse" raises.
        recognised: What a record is known by: "person" is its content and, where subjects are
            given, whose it is; "content" knows equal records of other people too.
        vault: Where the checkpoints are kept, as a URL that fsspec knows, such as
            "s3://bucket/prefix", or a path; in the run's folder if None. Credentials are looked for
            where the storage's own tools look, and never kept.
        seal: The master key to encrypt them with: `ob.KeyFile`, `ob.KeyVariable` or
            `ob.KeyService`. In the clear if None.
        disk_budget: What the chain may take on disk at rest, such as "2GB": keyframes are set
            further apart to fit, then fewer epochs are kept in full, and where that is not enough
            there are fewer blocks.
        evaluate: (model) -> numbers by name, such as accuracy on a test set: measured of the model
            after some blocks, in evaluation mode, and kept beside them. It is tried once before
            training.
        every: After how many blocks it is measured, and at the end; after each epoch if None.
        log: (block, numbers by name): told of each block, with its training "loss".
        stop: (what was measured so far, by block) -> whether training ends here; asked after each
            epoch. The run is whole then, with fewer blocks. All epochs are kept in full.
        project: Where the command line finds the project again; kept with the run.

    Returns:
        The run, trained to its end.

    Raises:
        InvalidRecipe: The recipe, the data or the arguments cannot be trained; every fault in one
            message, nothing written.
        NotDeterministic: Trying the first steps twice, or the first block, gave two results.
        Tombstoned: The data holds records that were erased before.
        TombstonesLost, TombstonesDamaged: The file of tombstones is not the one that the run was
            made with, or not what was written.
        ForeignRecipe, ForeignData: The folder holds a run of another recipe or dataset.
        NotFinite, TrainingFailed, StorageFull: Training stopped; the chain up to there is kept.
        ConnectionLost: The ledger's database or the vault's storage cannot be reached.
        ForeignVault: The vault's place holds something else.
        WrongKey, KeyMissing: The vault was sealed with another key, or the key cannot be had.
    """
    folder, recipe = local_folder(path), checked_recipe(recipe)
    records = data_length(data)
    apart = checked_reference(reference, data)
    blocks, people = cut(blocks, subjects, records)
    keep = checked_keep(keep, recipe.epochs)
    left_out = record_ids(exclude, records, what="exclude")
    check_place(folder)
    check_seal(seal)
    kept = tombstone_options(tombstones, reingested, recognised)
    budget_bytes = None if disk_budget is None else bytes_of(disk_budget)
    evaluation = Evaluation(evaluate=evaluate, every=every, log=log, stop=stop)
    evaluation.check(recipe, keep, disk_budget)
    before = None
    if not is_made(folder):
        spacing = 0
        if keep is None:
            usual = usual_keep(recipe.epochs, has_references=apart is not None)
            keep = usual if stop is None else recipe.epochs
        if budget_bytes is not None:
            blocks, spacing, keep = chain_within(
                budget_bytes, sizes_of(recipe), blocks, recipe.epochs, keep
            )
        before = yield from make(
            folder,
            recipe,
            data,
            blocks=blocks,
            keep=keep,
            subjects=people,
            left_out=left_out,
            reference=apart,
            project=project,
            tombstones=kept,
            ledger=ledger,
            settings=VaultSettings.new(vault, seal, spacing),
            seal=seal,
            evaluation=evaluation,
        )
    with naming(folder):
        (folder / MAKING_NAME).unlink(missing_ok=True)
    run = Run(folder, recipe, data, reference=apart, seal=seal, before=before)
    run.is_rehearsed = before is not None
    del before  # its optimizer holds the moments of the first steps
    if disk_budget is None:
        _check_blocks(run, blocks, None if stop is not None else keep)
    _check_same(run, people, left_out)
    _check_vault(run, vault, seal)
    _check_tombstones(run, kept)
    if records == run.facts.records:  # else an extension was interrupted, and goes on with `extend`
        check_references(run.writer)  # before hours are spent, as far as it is trained
        if run.ledger.chain.length() < run.facts.blocks:
            run.rehearse()
        yield from run.writer.training(evaluation)
        if run.ledger.run().parts != run.facts.parts:  # training was ended early
            run.renew(data, run.trainer)
        check_references(run.writer)
    return run


def load(
    path: str | Path,
    recipe: Recipe,
    data: Dataset[Any],
    *,
    reference: GivenReference | None = None,
    patience_seconds: float | None = None,
    seal: Seal | None = None,
) -> Run:
    """Open a run.

    Args:
        path: Its folder.
        recipe: The recipe that it was made with.
        data: The dataset that it was made with. Erased records are never read: anything may stand
            in their places.
        reference: References, as for `fit`; they need not be those that the run was made with.
        patience_seconds: How long calls that write wait for another live process that writes to
            the run; None: until it is done.
        seal: The master key of a sealed vault; where it is remembered to be if None.

    Raises:
        RunMissing: There is none.
        WrongKey, KeyMissing: The vault was sealed with another key, or there is none.
        ForeignVault: The vault's place holds something else.
        InvalidOption: The references cannot be used.
        ForeignRecipe, ForeignData: It was made with something else.
        RunOutdated: Another ledger than this one last wrote to the vault: this is an older copy.
        RunDamaged, OtherFormat: It cannot be read.
    """
    folder, recipe = local_folder(path), checked_recipe(recipe)
    if patience_seconds is not None:
        hint = "give seconds, or None to wait until the other process is done"
        patience_seconds = real(patience_seconds, "patience_seconds", least=0, hint=hint)
    check_seal(seal)
    data_length(data)
    apart = checked_reference(reference, data)
    return Run(folder, recipe, data, reference=apart, patience_seconds=patience_seconds, seal=seal)


def _check_blocks(run: Run, blocks: int, keep: int | None) -> None:
    first = run.facts.parts[0]
    if blocks != first.blocks:
        raise InvalidOption(
            f"{run.folder} was cut into {first.blocks} blocks, not {blocks}",
            hint="give the number it was made with, or make a new run in another folder",
        )
    if keep not in (None, first.keep):
        raise InvalidOption(
            f"{run.folder} keeps {first.keep} epochs in full, not {keep}",
            hint="give the number it was made with, or make a new run in another folder",
        )


def _check_same(run: Run, subjects: Subjects | None, left_out: NDArray[np.int64]) -> None:
    if subjects is not None and not _has_same_subjects(run, subjects):
        raise InvalidOption(
            f"{run.folder} was made with other subjects",
            hint="whom a record belongs to cannot be changed; make a new run in another folder",
        )
    known = run.ledger.records.excluded()
    if run.facts.tombstones or len(run.facts.parts) > 1:  # there may be others
        known = np.intersect1d(known, left_out)
    if not np.array_equal(left_out, known):
        raise InvalidOption(
            f"{run.folder} was made with another exclude",
            hint="to erase more records from a run that exists, call forget",
        )


def _check_tombstones(run: Run, kept: Mapping[str, str]) -> None:
    file = run.facts.tombstones.get("file")
    if kept and kept["file"] != file:
        said = "without tombstones" if file is None else f"with the tombstones in {file}"
        raise InvalidOption(
            f"{run.folder} was made {said}, not with {kept['file']}",
            hint="a run and its file of tombstones belong together; give that file or none",
        )


def _check_vault(run: Run, url: str | Path | None, seal: Seal | None) -> None:
    settings = VaultSettings.of(run.facts.vault)
    if url is not None and kept_form(url) != settings.url:
        raise InvalidOption(
            f"the vault of {run.folder} is in {run.vault.storage.name}, not {url}",
            hint="it stays where the run was made; give that place or none",
        )
    if seal is not None and not settings.seal:
        raise InvalidOption(
            f"the vault of {run.folder} was made without a master key",
            hint="what was written in the clear stays so; make a new run in another folder",
        )


def _has_same_subjects(run: Run, subjects: Subjects) -> bool:
    key, first = run.facts.subject_key, 0
    for number, part in enumerate(run.facts.parts):
        some = subjects.part(first, part.records)
        if len(some) and (
            key is None or not run.ledger.records.has_same_subjects(number, some, key)
        ):
            return False
        first += part.records
    return True
