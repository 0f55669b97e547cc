"""Workers: what the trials of a question are carried out with, in processes beside this one."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from obliviate.errors import InvalidOption
from obliviate.executors import Job
from obliviate.lab.trials import Bench, trials_of
from obliviate.training.determinism import BITS_DEPEND_ON, environment_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from obliviate.lab.experiment import Question
    from obliviate.recipe.recipe import Project

    Source = Callable[[], Project]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What makes, in a worker, what carries out a trial by its name; see `Job.source`.

    Attributes:
        project: Makes the project.
        question: What is asked.
        folder: Of the laboratory.
        keeps: Whether originals stay there.
        environment: What bits depend on, in the process that asked: workers compute alike.
    """

    project: Source
    question: Question
    folder: Path
    keeps: bool
    environment: Mapping[str, str]

    def __call__(self) -> Callable[[str], None]:
        """Make the project, and a bench for it.

        Raises:
            InvalidOption: This is a machine on which other bits would come of it.
        """
        torch.set_num_threads(1)
        project = self.project()
        check_machine(self.environment, project.recipe.device)
        bench = Bench(
            project, self.question, self.folder, keeps=self.keeps, environment=self.environment
        )
        trials = {trial.name: trial for trial in trials_of(self.question)}
        return lambda name: bench.carry_out(trials[name])


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


def job_of(
    source: Callable[[], Callable[[str], None]], names: Iterable[str], folder: Path, device: str
) -> Job:
    """The job of carrying out some trials.

    Args:
        source: What carries them out.
        names: Theirs.
        folder: Where their cells are kept.
        device: Where the recipe trains.
    """
    return Job(
        source=source,
        tasks=tuple(names),
        folders=(folder,),
        gpus=int(torch.device(device).type == "cuda"),
    )
