"""Fitting: training a chain, or resuming the training of one that was interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.errors import InvalidOption
from obliviate.lock import writing
from obliviate.making import (
    LEDGER_NAME,
    MAKING_NAME,
    block_faults,
    check_place,
    data_length,
    local_folder,
    make,
    subject_faults,
)
from obliviate.naming import record_ids
from obliviate.progress import Event, watch
from obliviate.recipe import invalid
from obliviate.run import Run

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch.utils.data import Dataset

    from obliviate.recipe import Recipe


def fit(
    recipe: Recipe,
    data: Dataset[Any],
    path: str | Path,
    *,
    blocks: int = 100,
    subjects: Sequence[str] | None = None,
    exclude: Iterable[int] = (),
) -> Run:
    """Train a chain, or resume the training of one that was interrupted.

    Args:
        recipe: How to train.
        data: A map-style dataset of (input, target); a record's id is its index, for ever.
        path: The folder of the run; made if it is not there.
        blocks: How many blocks the data is cut into.
        subjects: The person that each record belongs to. Kept as keyed hashes.
        exclude: Records to leave out, as if they had been erased before training.

    Returns:
        The run, trained to its end.

    Raises:
        InvalidRecipe: The recipe, the data or the arguments cannot be trained; every fault in one
            message, nothing written.
        NotDeterministic: Trying the first step twice gave two results.
        ForeignRecipe, ForeignData: The folder holds a run of another recipe or dataset.
        NotFinite, TrainingFailed, StorageFull: Training stopped; the chain up to there is kept.
        RunLocked: Another live process is writing to the run.
    """
    return watch(fitting(recipe, data, path, blocks=blocks, subjects=subjects, exclude=exclude))


def fitting(  # noqa: D417
    recipe: Recipe,
    data: Dataset[Any],
    path: str | Path,
    *,
    blocks: int = 100,
    subjects: Sequence[str] | None = None,
    exclude: Iterable[int] = (),
    project: Mapping[str, str] | None = None,
) -> Generator[Event, None, Run]:
    """`fit`, yielding its progress.

    Args:
        project: Where the command line finds the project again; kept with the run. The others: see
            `fit`.
    """
    folder = local_folder(path)
    records = data_length(data)
    faults = [*block_faults(blocks, records), *subject_faults(subjects, records)]
    if faults:
        raise invalid(faults)
    left_out = record_ids(exclude, records, what="exclude")
    check_place(folder)
    if not (folder / LEDGER_NAME).exists():
        make(
            folder,
            recipe,
            data,
            blocks=blocks,
            subjects=subjects,
            left_out=left_out,
            project=project,
        )
    with writing(folder):
        (folder / MAKING_NAME).unlink(missing_ok=True)
        run = Run(folder, recipe, data)
        _check_same(run, blocks, subjects, left_out)
        yield from run.continuing()
    return run


def _check_same(
    run: Run, blocks: int, subjects: Sequence[str] | None, left_out: NDArray[np.int64]
) -> None:
    if blocks != run.facts.blocks:
        raise InvalidOption(
            f"{run.folder} was cut into {run.facts.blocks} blocks, not {blocks}",
            hint="give the number it was made with, or make a new run in another folder",
        )
    if subjects is not None and not run.ledger.has_same_subjects(subjects):
        raise InvalidOption(
            f"{run.folder} was made with other subjects",
            hint="whom a record belongs to cannot be changed; make a new run in another folder",
        )
    if not np.array_equal(left_out, run.ledger.excluded()):
        raise InvalidOption(
            f"{run.folder} was made with another exclude",
            hint="to erase more records from a run that exists, call forget",
        )
