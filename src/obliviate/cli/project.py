"""The projects and the runs that a command is asked about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from torch.utils.data import Subset

from obliviate.chain.chain import Chain
from obliviate.chain.custody import opened
from obliviate.disk.paths import local_folder
from obliviate.errors import InvalidOption
from obliviate.launch import is_speaking
from obliviate.ledger import Ledger
from obliviate.recipe.project import load_project
from obliviate.run import load
from obliviate.run.arguments import data_length
from obliviate.text import printable
from obliviate.vault import VaultSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.utils.data import Dataset

    from obliviate.recipe.recipe import Project
    from obliviate.run import Run
    from obliviate.vault import Vault


def options_of(given: Sequence[str] | None) -> dict[str, str]:
    """The options of repeated `name=value`.

    Raises:
        InvalidOption: One has another form, or comes twice.
    """
    options: dict[str, str] = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not (equals and name.isidentifier()):
            raise InvalidOption(
                f"the option {each!r} is not of the form name=value",
                hint="give it as in `--option repeats=3`",
            )
        if name in options:
            raise InvalidOption(f"the option {name!r} is given twice", hint="give it once")
        options[name] = value
    return options


def remembered(file: Path, options: Mapping[str, str]) -> dict[str, str]:
    """What a run keeps of its project."""
    return {"file": str(file.resolve()), "options": json.dumps(dict(options), sort_keys=True)}


def open_ledger(place: str) -> Ledger:
    """A run's ledger, without its vault, its data and its project, whose code is not run."""
    return Ledger(local_folder(place))


def open_run(place: str, file: Path | None, wait: float | None = None) -> tuple[Project, Run]:
    """A run and the project that it was made with.

    Args:
        place: The run's folder.
        file: The project file, where it is no longer the one that the run remembers.
        wait: How many seconds to wait for another process that writes to the run.

    Raises:
        RunMissing, RunDamaged: There is no run that could be read.
        InvalidOption: The project file cannot be found.
        ForeignRecipe, ForeignData: The project is another now.
    """
    folder = local_folder(place)
    ledger = Ledger(folder)
    facts = ledger.run()
    ledger.close()
    project = project_of(folder, facts.project, file)
    data = own_data(project, facts.records)
    run = load(
        folder,
        project.recipe,
        data,
        reference=project.reference,
        patience_seconds=wait,
        seal=project.seal,
    )
    return project, run


def project_of(folder: Path, known: Mapping[str, str], file: Path | None) -> Project:
    """The project of a run.

    Args:
        folder: Of the run.
        known: What the run remembers of it.
        file: Its file, where it is no longer the remembered one.

    Raises:
        InvalidOption, InvalidRecipe: There is none.
    """
    if file is None:
        file = _known_file(folder, known)
        if is_speaking():
            typer.echo(f"running {printable(str(file))}, which the run names", err=True)
    return load_project(file, json.loads(known.get("options", "{}")))


def open_chain(place: str, file: Path | None) -> tuple[Ledger, Vault, Chain]:
    """A run's ledger, vault and chain, without its data.

    Args:
        place: The run's folder.
        file: The project file, where a sealed vault needs the project's own key service.
    """
    ledger, folder = open_ledger(place), local_folder(place)
    facts = ledger.run()
    seal = None
    if file is not None:
        seal = load_project(file, json.loads(facts.project.get("options", "{}"))).seal
    vault = opened(ledger, folder, seal)
    spacing = VaultSettings.of(facts.vault).spacing
    return ledger, vault, Chain(ledger, vault, facts.blocks, spacing=spacing, parts=facts.parts)


def _known_file(folder: Path, known: Mapping[str, str]) -> Path:
    hint = "say where the project is: --project FILE"
    if "file" not in known:
        raise InvalidOption(f"{folder} was made from Python and knows no project file", hint=hint)
    file = Path(known["file"])
    if not file.is_file():
        raise InvalidOption(f"the project file of {folder}, {file}, is gone", hint=hint)
    return file


def own_data(project: Project, records: int) -> Dataset[Any]:
    """A run's part of its project's data, to which records may have come since, for `extend`.

    Args:
        project: What the run was made with.
        records: How many the run has.
    """
    if data_length(project.data) <= records:
        return project.data
    return Subset(project.data, range(records))


def addition_of(project: Project, run: Run) -> dict[str, Any]:
    """What a project has beyond the finished parts of its run, as arguments for `Run.extend`.

    Raises:
        InvalidOption: Nothing.
    """
    first = run.facts.records
    if run.ledger.chain.length() < run.facts.blocks and len(run.facts.parts) > 1:
        first -= run.facts.parts[-1].records
    last = data_length(project.data)
    if last == first:
        raise InvalidOption(
            f"the project has no more records than the run, {first}",
            hint="let its data go on behind the old records; old ones keep their places",
        )
    subjects = None if project.subjects is None else list(project.subjects)[first:]
    return {"data": Subset(project.data, range(first, last)), "subjects": subjects}
