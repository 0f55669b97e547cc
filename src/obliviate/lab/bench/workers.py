"""Workers: what the trials of a benchmark are carried out with, in processes beside this one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from obliviate.lab.bench.trials import Workplace, trials_of
from obliviate.lab.workers import check_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from obliviate.lab.bench.benchmark import Benchmark
    from obliviate.lab.workers import Source


@dataclass(frozen=True, kw_only=True)
class BenchTrials:
    """What makes, in a worker, what carries out a trial by its name; see `Job.source`.

    Attributes:
        project: Makes the project.
        benchmark: What is compared.
        folder: Of the bench.
        environment: What bits depend on, in the process that asked: workers compute alike.
    """

    project: Source
    benchmark: Benchmark
    folder: Path
    environment: Mapping[str, str]

    def __call__(self) -> Callable[[str], None]:
        """Make the project, and a place to work on it.

        Raises:
            InvalidOption: This is a machine on which other bits would come of it.
        """
        torch.set_num_threads(1)
        project = self.project()
        check_machine(self.environment, project.recipe.device)
        workplace = Workplace(project, self.benchmark, self.folder, self.environment)
        trials = {trial.name: trial for trial in trials_of(self.benchmark)}
        return lambda name: workplace.carry_out(trials[name])
