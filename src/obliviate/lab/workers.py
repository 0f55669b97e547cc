"""Workers: who carries out trials, this process or others beside it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from obliviate.errors import InvalidOption
from obliviate.events import Event
from obliviate.executors import Job
from obliviate.recipe.recipe import Project
from obliviate.training.determinism import BITS_DEPEND_ON, environment_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from obliviate.events import Events
    from obliviate.executors import Executor
    from obliviate.lab.measurements import Cells

    Source = Callable[[], Project]


class Place(Protocol):
    """Where trials are carried out; each leaves its cells.

    Attributes:
        project: What is trained.
        folder: Where the cells are.
        cells: What has been measured.
        environment: What bits depend on; see `environment_facts`.
    """

    project: Project
    folder: Path
    cells: Cells
    environment: Mapping[str, str]

    def carry_out(self, trial: Any) -> None:
        """Make and measure what is missing of a trial."""
        ...


class Named(Protocol):
    """A trial: what is done in one go."""

    @property
    def name(self) -> str:
        """What it is called among all trials."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What makes, in a worker, what carries out a trial by its name; see `Job.source`.

    Attributes:
        project: Makes the project.
        place: Makes the place to work on it.
        trials: The trials.
        environment: What bits depend on, in the process that asked: workers compute alike.
    """

    project: Source
    place: Callable[[Project], Place]
    trials: tuple[Named, ...]
    environment: Mapping[str, str]

    def __call__(self) -> Callable[[str], None]:
        """Make the project, and a place to work on it.

        Raises:
            InvalidOption: This is a machine on which other bits would come of it.
        """
        torch.set_num_threads(1)
        project = self.project()
        check_machine(self.environment, project.recipe.device)
        place = self.place(project)
        trials = {trial.name: trial for trial in self.trials}
        return lambda name: place.carry_out(trials[name])


def measuring(
    place: Place,
    trials: Sequence[Named],
    cells: Sequence[str],
    *,
    source: Project | Source,
    alike: Callable[[Project], Place],
    executor: Executor | None,
) -> Events[None]:
    """Carry out trials.

    Args:
        place: Where this process does.
        trials: Those that are still to be carried out.
        cells: The names of all that is measured in the end, for events to say how far it is.
        source: The project, or what makes it in another process.
        alike: Makes such a place in another process.
        executor: Who carries them out; this process if None.
    """
    yield _progress(place, cells)
    if executor is None or isinstance(source, Project):
        for trial in trials:
            place.carry_out(trial)
            yield _progress(place, cells)
    elif trials:
        work = Trials(
            project=source, place=alike, trials=tuple(trials), environment=place.environment
        )
        job = Job(
            source=work,
            tasks=tuple(trial.name for trial in trials),
            folders=(place.folder,),
            gpus=int(torch.device(place.project.recipe.device).type == "cuda"),
        )
        for _ in executor.results(job):
            yield _progress(place, cells)


def _progress(place: Place, cells: Sequence[str]) -> Event:
    done = sum(name in place.cells for name in cells)
    return Event(task="models measured", done=done, total=len(cells))


def check_machine(environment: Mapping[str, str], device: str) -> None:
    """See that this machine computes as the one that asked.

    Args:
        environment: What bits depend on there; see `environment_facts`.
        device: Where the recipe trains.

    Raises:
        InvalidOption: Other bits would come of it.
    """
    here = environment_facts(device)
    for name in BITS_DEPEND_ON:
        if here.get(name) != environment.get(name):
            raise InvalidOption(
                f"{name} is {here.get(name)} on {socket.gethostname()}, and "
                f"{environment.get(name)} where the question was asked: models that are "
                "made here could not be compared with the others",
                hint="let all nodes be of one kind, with the same libraries",
            )
