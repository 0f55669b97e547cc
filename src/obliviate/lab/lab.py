"""The laboratory: does a method of unlearning forget? Measured against independent retrains.

For each of N seeds a model is trained on everything and each method unlearns the records from a
copy of it; N models of other seeds are trained without them. If a method forgets, the two families
cannot be told apart. Every model's scores are kept as a cell in the folder, so a killed call goes
on where it was and a further method or seed costs only itself.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from obliviate.disk.lock import alone
from obliviate.disk.paths import absolute
from obliviate.errors import InvalidRecipe
from obliviate.events import Events, watched
from obliviate.executors import check_source, executor_of
from obliviate.executors.executor import LOCAL
from obliviate.lab.experiment import question_of
from obliviate.lab.measurements import check_folder
from obliviate.lab.results import Lab, findings_of, written
from obliviate.lab.trials import Trial, Workplace
from obliviate.lab.workers import measuring
from obliviate.options import whole
from obliviate.recipe.recipe import Project
from obliviate.training.determinism import environment_facts
from obliviate.training.ranks import check_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from obliviate.executors import Executor
    from obliviate.methods.method import Method
    from obliviate.recipe.subjects import Subject

DEFAULT_METHODS = ("deepobliviate",)
DEFAULT_SEEDS = 10


@watched
def lab(
    project: Project | Callable[[], Project],
    folder: str | Path,
    *,
    records: Iterable[int] = (),
    subjects: Iterable[Subject] = (),
    methods: Sequence[str | Method] = DEFAULT_METHODS,
    seeds: int = DEFAULT_SEEDS,
    workers: int | None = None,
    on: str = "local",
    keep: bool = False,
) -> Events[Lab]:
    """Measure whether methods of unlearning forget some records of a project.

    The records are trained on, unlearned and scored again and again: this is research on data that
    may still be used, and no way to carry out a request.

    Args:
        project: The project, or a function that returns it.
        folder: Where cells, tables and pictures are left; new, empty, or of an earlier call.
        records: Ids of records to forget.
        subjects: Subjects, all of whose records are to be forgotten.
        methods: Names, text such as "deepobliviate:blocks=2", or methods; "exact" is always there.
        seeds: How many originals, and as many independent retrains.
        workers: How many trials at once, each in a process of its own; one if None, and on a
            cluster as many as there is room for. `project` has to be a function that these
            processes can import then.
        on: Who carries the trials out: "local", processes of this machine; "ray", the Ray cluster
            that RAY_ADDRESS or this process's own `ray.init` leads to, or one that is started for
            it here; or the address of a Ray cluster, as in "ray://head:10001". Its nodes have to
            see the folder and the project, at the same paths.
        keep: Keep the originals' runs, so that a further method need not train them again.

    Raises:
        InvalidRecipe, InvalidOption, UnknownRecord, UnknownSubject, UnknownMethod, NothingLeft: The
            question is wrong; nothing was written.
        ExtraMissing: Ray is not installed.
        ConnectionLost: The cluster cannot be reached.
        RunLocked: Another live process is measuring into the folder.
        NotDeterministic, NotFinite, TrainingFailed, StorageFull, RunDamaged: A model could not be
            made; what was measured before is kept.
    """
    check_alone("the laboratory")
    executor = executor_for(project, on, workers)
    made = project_from(project)
    place = absolute(folder, "the laboratory's folder")
    question = question_of(made, records=records, subjects=subjects, methods=methods, seeds=seeds)
    check_folder(place)
    with alone(place, is_patient=False):
        facts = environment_facts(made.recipe.device)
        workplace = Workplace(made, question, place, keeps=keep, environment=facts)
        yield from _measuring(workplace, project, executor)
        found = findings_of(question, workplace.cells)
        written(found, place)
    return found


def executor_for(
    project: Project | Callable[[], Project], on: str, workers: int | None
) -> Executor | None:
    """Who carries trials out; None where this process does by itself.

    Raises:
        InvalidOption: There is none like that, or other processes cannot make the project.
        ExtraMissing: Ray is not installed.
    """
    most = None if workers is None else whole(workers, "workers", least=1)
    if on == LOCAL and most in {None, 1}:
        return None
    executor = executor_of(on, most)
    check_source(project)
    return executor


def project_from(source: Project | Callable[[], Project]) -> Project:
    """A project, or what a function gives.

    Raises:
        InvalidRecipe: It is none.
    """
    found = source() if callable(source) else source
    if not isinstance(found, Project):
        raise InvalidRecipe(
            f"the project is {type(found).__name__}", hint="give a Project, or what returns one"
        )
    return found


def _measuring(
    workplace: Workplace, source: Project | Callable[[], Project], executor: Executor | None
) -> Events[None]:
    question = workplace.question
    alike = partial(
        Workplace,
        question=question,
        folder=workplace.folder,
        keeps=workplace.keeps,
        environment=workplace.environment,
    )
    missing = [each for each in Trial.all_of(question) if each.missing(question, workplace.cells)]
    yield from measuring(
        workplace, missing, question.cells(), source=source, alike=alike, executor=executor
    )
