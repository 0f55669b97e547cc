"""Project files: Python files that say how to train on what."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate.errors import InvalidOption, InvalidRecipe, ObliviateError
from obliviate.recipe.recipe import Project

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

EXAMPLE = "`project = obliviate.Project(recipe=..., data=...)`, or a function that returns one"


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
