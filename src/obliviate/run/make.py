"""Making a run: everything that is checked and written before the first block is trained on."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from obliviate.chain.spacing import Sizes
from obliviate.clock import stamp
from obliviate.disk.lock import LOCK_NAME, alone
from obliviate.disk.paths import naming
from obliviate.errors import (
    PUT_BACK,
    ConnectionLost,
    ForeignVault,
    InvalidOption,
    RunDamaged,
    RunMissing,
)
from obliviate.ledger import Entry, Ledger, Newcomers, RunFacts
from obliviate.ledger.create import PART_NAME, prepare
from obliviate.ledger.open import checked_url, has_ledger
from obliviate.recipe.deal import groups_of
from obliviate.recipe.parts import with_part
from obliviate.run.arguments import data_length
from obliviate.run.comparison import agreed_trainer, rehearse_all
from obliviate.run.fingerprint import content_hashes, sampled
from obliviate.run.references import tried_references
from obliviate.run.tombstoned import Reingested
from obliviate.states.update import digest, size_bytes
from obliviate.training.base import Base
from obliviate.training.determinism import Environment, environment_facts
from obliviate.training.first_step import probe, try_block
from obliviate.training.layout import Layout
from obliviate.training.model import has_batch_norm, made_model
from obliviate.training.optimizer import moments_bytes
from obliviate.training.ranks import apart
from obliviate.training.trainer import Trainer
from obliviate.vault.codec import encode
from obliviate.vault.folder import Folder
from obliviate.vault.settings import VAULT_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn
    from torch.utils.data import Dataset

    from obliviate.events import Events
    from obliviate.recipe.parts import Part
    from obliviate.recipe.recipe import Recipe
    from obliviate.recipe.subjects import Subjects
    from obliviate.run.evaluation import Evaluation
    from obliviate.training.protocol import BlockTrainer
    from obliviate.training.references import Apart
    from obliviate.vault import Seal, VaultSettings

MAKING_NAME = ".making"
_OWN_FILES = {LOCK_NAME, MAKING_NAME, VAULT_NAME, PART_NAME, f"{PART_NAME}-journal"}


def layout_of(
    recipe: Recipe,
    parts: tuple[Part, ...],
    grouping: Callable[[], NDArray[np.int64]],
    smallest_batch: int,
) -> Layout:
    """The place of every record, by a recipe."""
    return Layout(
        parts=parts,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        repeats=recipe.repeats,
        smallest_batch=smallest_batch,
        microbatch_count=recipe.microbatches,
        grouping=grouping,
    )


def trainer_of(
    recipe: Recipe,
    data: Dataset[Any],
    layout: Layout,
    *,
    environment: Mapping[str, str],
    content_key: bytes | None = None,
    model: nn.Module | None = None,
    moving: Collection[str] = (),
    before: BlockTrainer | None = None,
) -> BlockTrainer:
    """What trains by a recipe: the one place that makes a trainer.

    Args:
        recipe: How to train; its class may name a trainer of its own. One that is no kind of
            `Trainer` makes its own model.
        data: On what.
        layout: Which record is trained on where.
        environment: In what environment.
        content_key: See `Trainer`.
        model: See `Trainer`.
        moving: See `Trainer`.
        before: See `Trainer`.
    """
    kind: Any = recipe.trainer or Trainer
    trainer: BlockTrainer
    if not (isinstance(kind, type) and issubclass(kind, Trainer)):
        trainer = kind(recipe, data, layout, environment, content_key)
        return trainer
    trainer = kind(
        recipe,
        data,
        layout,
        environment,
        content_key,
        model=model,
        moving=moving,
        before=before if isinstance(before, kind) else None,
    )
    return trainer


def deal_seed(recipe: Recipe) -> int:
    """What the deals of a run are seeded with."""
    return recipe.seed if recipe.block_seed is None else recipe.block_seed


def groups_for(recipe: Recipe, subjects: Subjects | None, records: range) -> NDArray[np.int64]:
    """The group that each of some new records is dealt with. Shape (n,)."""
    if subjects is None or recipe.deal == "record":
        return np.arange(records.start, records.stop, dtype=np.int64)
    return groups_of(subjects, records.start)


def new_layout(
    recipe: Recipe,
    records: int,
    blocks: int,
    subjects: Subjects | None = None,
    *,
    smallest_batch: int = 1,
    keep: int | None = None,
) -> Layout:
    """The place of every record in a run that does not exist yet."""
    groups = groups_for(recipe, subjects, range(records))
    parts = with_part(
        (),
        groups,
        records=records,
        blocks=blocks,
        epochs=recipe.epochs,
        seed=deal_seed(recipe),
        keep=keep,
    )
    return layout_of(recipe, parts, lambda: groups, smallest_batch)


def new_trainer(
    recipe: Recipe,
    data: Dataset[Any],
    records: int,
    blocks: int,
    subjects: Subjects | None = None,
    *,
    keep: int | None = None,
) -> BlockTrainer:
    """The trainer of a run that does not exist yet."""
    environment = environment_facts(recipe.device, recipe.workers)
    smallest_batch, model = recipe.smallest_batch, None
    if smallest_batch is None:
        with Environment.of(recipe.device, environment).entered():
            model = made_model(recipe)
        smallest_batch = 2 if has_batch_norm(model) else 1
    layout = new_layout(recipe, records, blocks, subjects, smallest_batch=smallest_batch, keep=keep)
    return trainer_of(recipe, data, layout, environment=environment, model=model)


def make(
    folder: Path,
    recipe: Recipe,
    data: Dataset[Any],
    *,
    blocks: int,
    keep: int | None,
    subjects: Subjects | None,
    left_out: NDArray[np.int64],
    project: Mapping[str, str] | None,
    reference: Apart | None,
    tombstones: Mapping[str, str],
    ledger: str | None,
    settings: VaultSettings,
    seal: Seal | None = None,
    evaluation: Evaluation,
) -> Events[BlockTrainer | None]:
    """Write block 0 and the ledger: after this, and not before, there is a run.

    First steps are tried before the folder is touched, so that bad input leaves nothing behind.

    Returns:
        What tried it, with a model that can be trained on; None where another process made the run.
    """
    if ledger is not None:
        checked_url(ledger)
    if not _is_free(folder, settings):
        return None  # another process was faster
    new = partial(new_trainer, recipe, data, data_length(data), blocks, subjects, keep=keep)
    trainer = agreed_trainer(new, left_out, blocks=blocks, keep=keep)
    probe(trainer, left_out)
    rehearse_all(trainer, left_out)
    with apart():  # the others have no run yet
        yield from try_block(trainer, left_out)
    evaluation.try_first(trainer)
    ids = np.arange(trainer.layout.records, dtype=np.int64)
    found = Reingested.among(trainer, ids, tombstones, subjects)
    left_out = np.union1d(left_out, found.records)
    facts = _facts(
        recipe, trainer, left_out, project or {}, tombstones=found.options, settings=settings
    )
    facts = replace(facts, references=tried_references(trainer, reference, left_out))
    if ledger is not None:
        prepare(ledger)
    with _or_nothing(folder) as elsewhere, alone(folder):
        if is_made(folder):
            return None  # another process was faster
        settings = _noted(folder / MAKING_NAME, settings, seal)
        elsewhere.extend([settings.url] if settings.url else [])
        vault = settings.claimed(folder, seal)  # what is there was left by a killed call
        initial = trainer.initial().model
        first = Entry(
            block=0,
            origin="initial",
            guarantee="exact",
            digest=digest(initial),
            keyframe=vault.write(encode(initial)),
        )
        Ledger.create(
            folder,
            replace(facts, vault=settings.as_dict()),
            first,
            Newcomers(
                groups=trainer.layout.groups,
                subjects=subjects,
                contents=found.contents,
                excluded=left_out,
            ),
            url=ledger,
            wrap=vault.wrapped,
        ).close()
    return trainer


@contextlib.contextmanager
def _or_nothing(folder: Path) -> Iterator[list[str]]:
    """Leave no folder that was not there before, where no run could be made in it.

    Yields:
        Where a vault was begun elsewhere: it is known by a note in the folder, so that the next
        call can go on with it. The folder stays then.
    """
    elsewhere: list[str] = []
    with naming(folder):
        new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield elsewhere
    except Exception as error:
        is_begun = bool(elsewhere) and not isinstance(error, ForeignVault)
        if new and not (is_begun or isinstance(error, ConnectionLost) or has_ledger(folder)):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # somebody else put something there
                for each in new[1:]:
                    each.rmdir()
        raise


def _noted(note: Path, settings: VaultSettings, seal: Seal | None) -> VaultSettings:
    """The settings, under the identity that a killed making had given to the place already."""
    with naming(note):
        identity = note.read_text() if note.exists() else ""
        if identity:
            settings = replace(settings, identity=identity)
            return settings if seal is None else settings.sealed(seal)
        with note.open("w") as file:
            file.write(settings.identity)
            file.flush()
            os.fsync(file.fileno())
    return settings


def _is_free(folder: Path, settings: VaultSettings) -> bool:
    """Look whether a vault elsewhere can be the run's; there is nothing yet if another made it.

    Raises:
        InvalidOption, ForeignVault: It cannot.
    """
    note = folder / MAKING_NAME
    with naming(note):
        identity = note.read_text() if note.exists() else ""
    try:
        replace(settings, identity=identity or settings.identity).check_free(folder)
    except ForeignVault:
        if is_made(folder):
            return False
        raise
    return True


def is_made(folder: Path) -> bool:
    """Whether there is a run in a folder, and not only what a killed making left."""
    if not has_ledger(folder):
        return False
    try:
        Ledger(folder).close()
    except RunMissing:  # the folder names a database that knows nothing of it
        return False
    return True


def _facts(
    recipe: Recipe,
    trainer: BlockTrainer,
    left_out: NDArray[np.int64],
    project: Mapping[str, str],
    *,
    tombstones: Mapping[str, str],
    settings: VaultSettings,
) -> RunFacts:
    layout, secret = trainer.layout, secrets.token_bytes(32)
    return RunFacts(
        parts=layout.parts,
        smallest_batch=layout.smallest_batch,
        fingerprint=trainer.fingerprint(),
        environment=dict(trainer.environment.facts),
        subject_key=secrets.token_bytes(32),
        content_key=secret,
        samples=content_hashes(trainer, sampled(layout.records, recipe.seed, left_out), secret),
        tombstones=tombstones,
        vault=settings.as_dict(),
        project=project,
        made=stamp(),
    )


def sizes_of(recipe: Recipe) -> Sizes:
    """What a recipe's blocks are expected to take."""
    with Environment(recipe.device, torch.get_num_threads()).entered():
        model = made_model(recipe)
        state_bytes = size_bytes(Base(model).rest(model.state_dict()))
        is_carried = recipe.optimizer_state == "carried"
        return Sizes.expected(state_bytes, moments_bytes(recipe, model) if is_carried else 0)


def check_place(folder: Path) -> None:
    """See that a folder is a run, or can become one, without touching it."""
    with naming(folder):
        _check_place(folder)


def _check_place(folder: Path) -> None:
    if has_ledger(folder) or not folder.exists():
        return
    if not folder.is_dir():
        raise InvalidOption(f"{folder} is a file", hint="give a folder that is new or empty")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in _OWN_FILES)
    if foreign:
        raise InvalidOption(
            f"{folder} holds no run but other files, such as {foreign[0]}",
            hint="give a folder that is new or empty",
        )
    was_being_made = (folder / MAKING_NAME).exists()
    if not was_being_made and any(True for _ in Folder(folder / VAULT_NAME)):
        raise RunDamaged(
            f"{folder} has a vault full of states, but its ledger is gone",
            hint=PUT_BACK,
        )
