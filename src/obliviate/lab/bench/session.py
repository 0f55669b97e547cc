"""A session at the bench: methods of unlearning side by side, in one table.

For each seed a project is trained on everything; each method forgets a stream of requests, one
after the other, and is measured on the way beside models that were trained anew. What is measured
is kept as cells in the folder, as the laboratory keeps its own: a killed call goes on where it was,
and a further method, seed or number of requests costs only itself.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from obliviate.disk.lock import alone
from obliviate.disk.paths import absolute
from obliviate.events import Event, Events, watched
from obliviate.executors.executor import LOCAL
from obliviate.lab.bench.benchmark import benchmark_of
from obliviate.lab.bench.comparison import Comparison, Reader
from obliviate.lab.bench.page import page
from obliviate.lab.bench.table import as_csv
from obliviate.lab.bench.trials import Trial, Workbench
from obliviate.lab.lab import executor_for, project_from
from obliviate.lab.measurements import check_folder, leave
from obliviate.lab.workers import measuring
from obliviate.text import plain
from obliviate.training.determinism import environment_facts
from obliviate.training.ranks import check_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from obliviate.executors import Executor
    from obliviate.lab.baselines import Unlearner
    from obliviate.lab.strictness import Strictness
    from obliviate.methods.method import Method
    from obliviate.recipe.recipe import Project

DEFAULT_METHODS = ("all",)
DEFAULT_REQUESTS = (1, 3)
DEFAULT_SEEDS = 1


@watched
def bench(
    project: Project | Callable[[], Project],
    folder: str | Path,
    *,
    methods: Iterable[str | Method | Unlearner] = DEFAULT_METHODS,
    requests: Iterable[int] = DEFAULT_REQUESTS,
    size: int | None = None,
    seeds: int = DEFAULT_SEEDS,
    backdoor: bool = True,
    workers: int | None = None,
    on: str = LOCAL,
) -> Events[Comparison]:
    """Compare methods of unlearning on a project.

    The records are trained on, unlearned and scored again and again: this is research on data that
    may still be used, and no way to carry out a request.

    Args:
        project: The project, or a function that returns it; nothing of it is changed.
        folder: Where cells, tables, pictures and the page are left; new, empty, or of an earlier
            call.
        methods: Names of methods and of baselines, with options as in "deepobliviate:back=1"; or
            the objects; "all", "chain" and "baselines" stand for all that there are. Retraining is
            always there.
        requests: After how many requests models are measured. Whoever asks is drawn by the recipe's
            seed, and the same for all.
        size: How many records each request names; those of one person, or a single one where the
            project has no subjects, if None.
        seeds: How often everything is done.
        backdoor: Whether a backdoor is planted in a second training, to see it disappear.
        workers: How many trials at once, each in a process of its own; see `lab`, also for the
            next one. Times are then those of processes that compute side by side.
        on: Who carries the trials out.

    Raises:
        InvalidRecipe, InvalidOption, UnknownMethod, NothingLeft: The comparison cannot be made;
            nothing was written.
        ExtraMissing, ConnectionLost: See `lab`.
        RunLocked: Another live process is measuring into the folder.
        NotDeterministic, NotFinite, TrainingFailed: The project cannot be trained. A method that
            fails by itself has a row that says so.
        StorageFull, RunDamaged: What was measured before is kept.
    """
    check_alone("bench")
    executor = executor_for(project, on, workers)
    made = project_from(project)
    place = absolute(folder, "the folder of the bench")
    benchmark = benchmark_of(
        made,
        methods=methods,
        requests=requests,
        size=size,
        seeds=seeds,
        has_backdoor=backdoor,
    )
    check_folder(place)
    with alone(place, is_patient=False):
        facts = environment_facts(made.recipe.device)
        workbench = Workbench(made, benchmark, place, facts)
        yield Event(task="what determinism costs", done=0, total=1)
        cost = workbench.strictness()  # before other processes are at work
        yield from _measuring(workbench, project, executor)
        comparison = _compared(workbench, cost)
        leave(place, files_of(comparison))
    return comparison


def _measuring(
    workbench: Workbench, source: Project | Callable[[], Project], executor: Executor | None
) -> Events[None]:
    benchmark = workbench.benchmark
    alike = partial(
        Workbench,
        benchmark=benchmark,
        folder=workbench.folder,
        environment=workbench.environment,
    )
    trials = Trial.all_of(benchmark)
    missing = [each for each in trials if each.missing(benchmark, workbench.cells)]
    cells = [name for trial in trials for name in trial.cells(benchmark)]
    yield from measuring(workbench, missing, cells, source=source, alike=alike, executor=executor)


def _compared(workbench: Workbench, determinism: Strictness) -> Comparison:
    project, benchmark = workbench.project, workbench.benchmark
    return Comparison(
        seeds=benchmark.seeds,
        records=benchmark.records,
        blocks=project.blocks,
        epochs=project.recipe.epochs,
        noun=benchmark.stream.noun,
        requests=benchmark.requests,
        erased=tuple(len(benchmark.stream.gone(count)) for count in benchmark.requests),
        rows=tuple(Reader(benchmark, workbench.cells).rows()),
        no_backdoor=benchmark.no_backdoor,
        determinism=determinism,
    )


def files_of(comparison: Comparison) -> dict[str, bytes]:
    """What is left of a comparison, by the names of the files."""
    from obliviate.lab.bench.charts import (  # noqa: PLC0415 - a second
        accuracy_picture,
        cost_picture,
    )

    pictures = {"accuracy": accuracy_picture(comparison), "cost": cost_picture(comparison)}
    return {
        "bench.json": json.dumps(plain(comparison), indent=1, allow_nan=False).encode(),
        "bench.csv": as_csv(comparison).encode(),
        "bench.html": page(comparison, pictures).encode(),
        "accuracy.png": pictures["accuracy"],
        "cost.png": pictures["cost"],
    }
