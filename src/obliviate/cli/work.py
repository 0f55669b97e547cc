"""The command `work`: what waits in runs is carried out, in one after the other or side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - typer evaluates annotations
from typing import TYPE_CHECKING, Annotated

import typer

from obliviate.cli import render
from obliviate.cli.options import Json, Moved, On, Policed, RunFolders, Wait, Workers
from obliviate.cli.output import Answer, Fault, over, together, tried
from obliviate.cli.project import open_run
from obliviate.cli.terminal import watch_replay
from obliviate.desk.policy import Policy
from obliviate.disk.paths import absolute, local_folder
from obliviate.executors import Job, executor_of
from obliviate.executors.executor import LOCAL
from obliviate.ledger import Ledger
from obliviate.training.ranks import check_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from obliviate.executors import Executor
    from obliviate.ledger import RunFacts

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class Chores:
    """What is carried out in each run, and makes in a worker what does it; see `Job.source`.

    Attributes:
        everything: Whether all that waits is erased, whatever is due.
        margin: Days before the earliest deadline at which the exact replay is made.
        project: The project file, if it has moved.
        wait: Seconds to wait for another process that writes to a run.
    """

    everything: bool
    margin: float
    project: Path | None
    wait: float | None

    def of(self, run: str) -> Answer:
        """Carry it out in a run."""
        opened = open_run(run, self.project, self.wait)[1]
        events = opened.work.events(Policy(margin_days=self.margin), everything=self.everything)
        outcome = watch_replay(events)
        return render.of_work(outcome, opened.ledger.requests.all())

    def __call__(self) -> Callable[[str], Answer | Fault]:
        """What carries it out in a run, in a worker."""
        return lambda run: tried(run, lambda run: self.of(run).told())


@app.command()
def work(
    run: RunFolders,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Erase all that waits, and settle, whatever is due.")
    ] = False,
    margin: Policed = Policy.margin_days,
    workers: Workers = None,
    on: On = LOCAL,
    project: Moved = None,
    wait: Wait = None,
    _json: Json = False,
) -> Answer | Fault:
    """Carry out the requests that are due or pay off: to be called every day."""
    moved = None if project is None else absolute(project, "the project file")
    chores = Chores(everything=everything, margin=margin, project=moved, wait=wait)
    if on == LOCAL and workers in {None, 1}:
        return over(run, chores.of)
    return _side_by_side(run, chores, executor_of(on, workers))


def _side_by_side(runs: Sequence[str], chores: Chores, executor: Executor) -> Answer | Fault:
    """Carry out in several runs at once what is due, with a process for each."""
    check_alone("work side by side")
    folders = {run: local_folder(run) for run in dict.fromkeys(runs)}
    facts = [_facts(folder) for folder in folders.values()]
    job = Job(
        source=chores,
        tasks=tuple(map(str, dict.fromkeys(folders.values()))),
        folders=tuple(folders.values()),
        cpus=max(int(each.environment["threads"]) for each in facts),
        gpus=int(any("accelerator" in each.environment for each in facts)),
    )
    found: dict[str, Answer | Fault] = {}
    for some in executor.results(job):
        found |= some
    answers = {run: found[str(folder)] for run, folder in folders.items()}
    return together(answers) if len(answers) > 1 else next(iter(answers.values()))


def _facts(folder: Path) -> RunFacts:
    ledger = Ledger(folder)
    try:
        return ledger.run()
    finally:
        ledger.close()
