"""Projects: Python files that say how to train on what, and the runs that remember them."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from torch.utils.data import Subset

from obliviate.chain.chain import Chain
from obliviate.chain.custody import opened
from obliviate.disk.paths import local_folder
from obliviate.errors import InvalidOption, InvalidRecipe, ObliviateError
from obliviate.ledger import Ledger
from obliviate.recipe.recipe import Project
from obliviate.run import load
from obliviate.run.make import data_length
from obliviate.text import printable
from obliviate.vault import VaultSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    from obliviate.run import Run
    from obliviate.vault import Vault

EXAMPLE = "`project = obliviate.Project(recipe=..., data=...)`, or a function that returns one"


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
                hint="give it as in `--option epochs=3`",
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
    data, records = project.data, data_length(project.data)
    if records > facts.records:  # more came since, for `extend`
        data = Subset(data, range(facts.records))
    return project, load(folder, project.recipe, data, patience_seconds=wait, seal=project.seal)


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
    return ledger, vault, Chain(ledger, vault, facts.blocks, spacing=spacing)


def addition_of(project: Project, run: Run) -> dict[str, Any]:
    """What a project has beyond the finished parts of its run, as arguments for `Run.extend`.

    Raises:
        InvalidOption: Nothing.
    """
    first = run.facts.records
    if run.ledger.length() < run.facts.blocks and len(run.facts.parts) > 1:
        first -= run.facts.parts[-1].records
    last = data_length(project.data)
    if last == first:
        raise InvalidOption(
            f"the project has no more records than the run, {first}",
            hint="let its data go on behind the old records; old ones keep their places",
        )
    subjects = None if project.subjects is None else list(project.subjects)[first:]
    return {"data": Subset(project.data, range(first, last)), "subjects": subjects}


def _known_file(folder: Path, known: Mapping[str, str]) -> Path:
    hint = "say where the project is: --project FILE"
    if "file" not in known:
        raise InvalidOption(f"{folder} was made from Python and knows no project file", hint=hint)
    file = Path(known["file"])
    if not file.is_file():
        raise InvalidOption(f"the project file of {folder}, {file}, is gone", hint=hint)
    return file


@dataclass(frozen=True, kw_only=True)
class ProjectFile:
    """A project that any process can make for itself: see `load_project`."""

    file: Path
    options: Mapping[str, str]

    def __call__(self) -> Project:
        """Load the project."""
        return load_project(self.file, self.options)


def load_project(file: Path, options: Mapping[str, str]) -> Project:
    """The project that a file defines.

    Args:
        file: A Python file that defines `project`, a `Project` or a function that returns one.
        options: Keyword arguments for the function.

    Raises:
        InvalidOption: There is no such file, or the function takes other options.
        InvalidRecipe: The file defines no project.
        ObliviateError: The file raised.
    """
    if not file.is_file():
        raise InvalidOption(
            f"there is no project file {file}", hint=f"give a Python file that defines {EXAMPLE}"
        )
    with _running(file):
        module = _module(file)
        project = getattr(module, "project", None)
        if callable(project):
            _check_options(file, project, options)
            project = project(**options)
        elif options and isinstance(project, Project):
            raise InvalidOption(
                f"{file} takes no options, but {', '.join(options)} was given",
                hint="leave --option out, or make `project` a function with these arguments",
            )
    if not isinstance(project, Project):
        found = f"defines {type(project).__name__}" if project is not None else "does not define it"
        raise InvalidRecipe(
            f"{file} should define `project`, a Project; it {found}", hint=f"write {EXAMPLE}"
        )
    return project


def _module(file: Path) -> ModuleType:
    # under its own name, where that is free, so that data loading workers can import it too
    name = f"obliviate_project_{file.stem}" if file.stem in sys.modules else file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InvalidOption(f"{file} is no Python file", hint="give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _running(file: Path) -> Iterator[None]:
    """Run the file's own code as Python runs a script, and say what it raised and where."""
    place = str(file.resolve().parent)
    if place not in sys.path:
        sys.path.insert(0, place)
    try:
        yield
    except ObliviateError:
        raise
    except (Exception, SystemExit) as error:
        raise ObliviateError(
            f"{_where(file, error)} raised {type(error).__name__}: {error}",
            hint="mend the project file and call again; nothing was changed",
        ) from error


def _where(file: Path, error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file.resolve()]
    return f"{file}, line {lines[-1]}," if lines else str(file)


def _check_options(file: Path, project: Any, options: Mapping[str, str]) -> None:
    signature = inspect.signature(project)
    try:
        signature.bind(**options)
    except TypeError as error:
        taken = ", ".join(signature.parameters) or "none"
        raise InvalidOption(
            f"`project` in {file} does not take these options ({error})",
            hint=f"it takes: {taken}; give them as `--option name=value`",
        ) from error
