"""Fitting: a run of a project, as the laboratory and the bench train it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obliviate.run.start import fit

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from obliviate.events import Events
    from obliviate.recipe.recipe import Project
    from obliviate.run import Run


def fitting(project: Project, folder: Path, *, exclude: Iterable[int] = ()) -> Events[Run]:
    """Train a run of a project in a folder, or go on with the one that is there.

    Args:
        project: The project.
        folder: Of the run.
        exclude: Ids of records to leave out.

    Raises:
        NotFinite, TrainingFailed, StorageFull: The training failed; see `fit`, also for others.
    """
    return (
        yield from fit.events(
            project.recipe,
            project.data,
            folder,
            blocks=project.blocks,
            keep=project.keep,
            subjects=project.subjects,
            reference=project.reference,
            exclude=exclude,
        )
    )
