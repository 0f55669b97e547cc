"""Trials of a benchmark: what is trained, asked to forget and measured, one seed at a time."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.errors import (
    InvalidOption,
    InvalidRecipe,
    NotFinite,
    NothingLeft,
    ObliviateError,
    TrainingFailed,
)
from obliviate.events import finish
from obliviate.lab.baselines.retrain import again
from obliviate.lab.baselines.single import SingleModel
from obliviate.lab.bench.backdoor import backdoor_of
from obliviate.lab.bench.contender import ChainOriginal, ChainRun, OnChain, label_of
from obliviate.lab.bench.deletion import QUERIES
from obliviate.lab.bench.measure import digest_of, measured, obeyed, obeying, test_accuracy
from obliviate.lab.experiment import recipe_of
from obliviate.lab.measurements import Cell, Cells
from obliviate.lab.strictness import Strictness, strictness
from obliviate.training.determinism import Environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from obliviate.lab.baselines import Cost, Prepared, Unlearner
    from obliviate.lab.bench.backdoor import Backdoor
    from obliviate.lab.bench.benchmark import Benchmark
    from obliviate.recipe.recipe import Project

RUNS_NAME = "runs"
CONTROLS = 3
UNSUPPORTED, DIVERGED, FAILED = "unsupported", "diverged", "failed"
_NOBODY = np.empty(0, dtype=np.int64)
_FURTHER_SEEDS = 1 << 20  # far from those of originals and of the first controls
_TROUBLES = (InvalidRecipe, InvalidOption, NothingLeft, NotFinite, TrainingFailed)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is done in one go.

    Attributes:
        number: Of the seed, from 0.
        contenders: Who forgets; those of the chain share one training. Without any, the originals
            and the retrains are made that all are compared with.
        has_backdoor: Whether the training has the backdoor.
    """

    number: int
    contenders: tuple[Unlearner, ...]
    has_backdoor: bool = False

    @property
    def name(self) -> str:
        """What it is called among the trials of its benchmark."""
        who = "+".join(map(label_of, self.contenders)) or "retrains"
        return f"{who}, seed {self.number}{', backdoor' if self.has_backdoor else ''}"

    @classmethod
    def all_of(cls, benchmark: Benchmark) -> list[Trial]:
        """All trials of a benchmark; of each seed the retrains first."""
        chain = tuple(each for each in benchmark.contenders if isinstance(each, OnChain))
        single = [(each,) for each in benchmark.contenders if not isinstance(each, OnChain)]
        groups = [(), *([chain] if chain else []), *single]
        return [
            cls(number=number, contenders=group, has_backdoor=has_backdoor)
            for number in range(benchmark.seeds)
            for has_backdoor in ((False, True) if benchmark.share else (False,))
            for group in groups
        ]

    def missing(self, benchmark: Benchmark, cells: Cells) -> list[str]:
        """The names of its cells that have not been measured yet."""
        return [name for name in self.cells(benchmark) if name not in cells]

    def cells(self, benchmark: Benchmark) -> list[str]:
        """The names of all its cells."""
        number = self.number
        if self.has_backdoor:
            if not self.contenders:
                return [benchmark.control(number, which) for which in range(CONTROLS)]
            return [benchmark.cleaned(number, each) for each in self.contenders]
        if self.contenders:
            return [
                name
                for each in self.contenders
                for name in (
                    *(benchmark.unlearned(number, count, each) for count in benchmark.requests),
                    *([benchmark.settled(number, each)] if isinstance(each, OnChain) else []),
                )
            ]
        return [
            name
            for count in benchmark.requests
            for name in (
                benchmark.original(number, count),
                benchmark.retrained(number, count, is_own=True),
                benchmark.retrained(number, count, is_own=False),
            )
        ]


class Workbench:
    """Where the trials of one benchmark are carried out; each leaves its cells and nothing else.

    Attributes:
        environment: What bits depend on; see `environment_facts`.
    """

    def __init__(
        self,
        project: Project,
        benchmark: Benchmark,
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.project, self.benchmark, self.folder = project, benchmark, folder
        self.environment = environment
        self.cells = Cells(folder)
        self._tested = np.array(benchmark.tested, dtype=np.int64)

    def strictness(self) -> Strictness:
        """What determinism costs the project, measured unless it has been.

        Raises:
            NotFinite, TrainingFailed, StorageFull: It could not be measured.
        """
        name = self.benchmark.determinism
        if name not in self.cells:
            with Environment(self.project.recipe.device, 1, self.environment).entered():
                facts = asdict(strictness(self.project))
            self.cells.write(name, Cell(scores={}, accuracies={}, facts=facts))
        return Strictness(**self.cells.read(name).facts)

    def carry_out(self, trial: Trial) -> None:
        """Make and measure what is missing of a trial; what a killed process left goes on.

        Raises:
            NotFinite, TrainingFailed, StorageFull: A model could not be made.
        """
        if not trial.missing(self.benchmark, self.cells):
            return
        project = self._project(trial.number)
        # always one thread: bits depend on the number, and workers must not change the answer
        with Environment(project.recipe.device, 1, self.environment).entered():
            backdoor = None
            if trial.has_backdoor:
                backdoor = backdoor_of(self.project, self._seed(trial.number), self.benchmark.share)
                project = backdoor.planted(project)
            if trial.contenders:
                self._contend(trial, project, backdoor)
            elif backdoor:
                self._controls(trial.number, project, backdoor)
            else:
                self._retrains(trial.number, project)

    def _seed(self, number: int) -> int:
        return self.project.recipe.seed + number

    def _project(self, number: int, *, is_own: bool = True) -> Project:
        recipe = recipe_of(self.project.recipe, number, is_original=is_own)
        return replace(self.project, recipe=recipe)

    def _retrains(self, number: int, project: Project) -> None:
        """The original, the retrains of its seed, and those of another."""
        own = SingleModel(project, again)
        started = time.perf_counter()
        finish(own.train(_NOBODY, "train"))
        facts = {"training_seconds": time.perf_counter() - started}
        for count in self.benchmark.requests:
            gone = self.benchmark.stream.gone(count)
            name = self.benchmark.original(number, count)
            if name not in self.cells:
                self.cells.write(name, measured(own, project, gone, self._tested, facts))
        other = self._project(number, is_own=False)
        apart = SingleModel(other, again)
        for count in self.benchmark.requests:
            for model, its, is_own in ((own, project, True), (apart, other, False)):
                name = self.benchmark.retrained(number, count, is_own=is_own)
                self._retrain(model, its, count, name)

    def _retrain(self, model: SingleModel, project: Project, count: int, name: str) -> None:
        if name in self.cells:
            return
        gone, started = self.benchmark.stream.gone(count), time.perf_counter()
        work = finish(model.train(gone, "retrain"))
        facts = {"seconds": time.perf_counter() - started, "records": work.records}
        self.cells.write(name, measured(model, project, gone, self._tested, facts))

    def _controls(self, number: int, project: Project, backdoor: Backdoor) -> None:
        """Retrains of other seeds, without the records with the trigger."""
        asked, gone = backdoor.asked(self.project), np.array(backdoor.records, dtype=np.int64)
        for which in range(CONTROLS):
            name = self.benchmark.control(number, which)
            if name in self.cells:
                continue
            other = self._project(number + which * _FURTHER_SEEDS, is_own=False)
            model = SingleModel(replace(project, recipe=other.recipe), again)
            finish(model.train(gone, "retrain"))
            facts = {"obeyed": obeyed(model, project, asked, backdoor.queries)}
            self.cells.write(name, Cell(scores={}, accuracies={}, facts=facts))

    def _own_controls(
        self, contender: Unlearner, number: int, project: Project, backdoor: Backdoor
    ) -> list[float]:
        """How often several models that never saw the trigger, asked together, obey it.

        They are others than a single retrain: each has seen but a part of the records.
        """
        rates = []
        for which in range(CONTROLS):
            other = self._project(number + which * _FURTHER_SEEDS, is_own=False)
            left = backdoor.left(replace(project, recipe=other.recipe))
            own = self._place(f"{self.benchmark.cleaned(number, contender)}-control")
            shutil.rmtree(own, ignore_errors=True)  # a killed process's
            own.mkdir(parents=True)
            model = finish(contender.prepare(left, own))
            rates.append(obeyed(model, left, backdoor.asked(self.project), backdoor.queries))
            model.close()
            shutil.rmtree(own)
        return rates

    def _contend(self, trial: Trial, project: Project, backdoor: Backdoor | None) -> None:
        """Let each contender of a trial forget, from a copy of one training if it is a chain's."""
        own = "planted" if backdoor else "stream"
        original = ChainOriginal(project, self._place(f"chain-{own}-{trial.number}"))
        for contender in trial.contenders:
            single = replace(trial, contenders=(contender,))
            names = single.missing(self.benchmark, self.cells)
            if not names:
                continue
            place = self._place(names[0])
            shutil.rmtree(place, ignore_errors=True)  # a killed process's
            try:
                with closing(_prepared(contender, project, place, original)) as prepared:
                    if backdoor:
                        self._clean(prepared, contender, trial.number, project, backdoor)
                    else:
                        self._stream(prepared, contender, trial.number, project)
            except _TROUBLES as error:
                trouble = _trouble(error)
                for name in single.missing(self.benchmark, self.cells):
                    self.cells.write(name, Cell(scores={}, accuracies={}, facts=trouble))
            finally:
                shutil.rmtree(place, ignore_errors=True)
        if any(isinstance(each, OnChain) for each in trial.contenders):
            # else it is another trial's, which may be at work at this moment
            shutil.rmtree(original.folder, ignore_errors=True)

    def _place(self, name: str) -> Path:
        # the context is in the name: another project's runs must not be taken for this one's
        return self.folder / RUNS_NAME / f"{name}-{self.benchmark.context[:12]}"

    def _stream(
        self, prepared: Prepared, contender: Unlearner, number: int, project: Project
    ) -> None:
        """Forget one request after the other, and measure on the way."""
        spent: list[Cost] = []
        facts: dict[str, Any] = {
            "training_seconds": prepared.cost.seconds,
            "accuracy_before": test_accuracy(prepared, project),
        }
        for count in self.benchmark.requests:
            for request in self.benchmark.stream.requests[len(spent) : count]:
                spent.append(finish(prepared.forget(np.array(request, dtype=np.int64))))
            name = self.benchmark.unlearned(number, count, contender)
            if name in self.cells:
                continue
            gone = self.benchmark.stream.gone(count)
            own = facts | _total(spent)
            self.cells.write(name, measured(prepared, project, gone, self._tested, own))
        if isinstance(prepared, ChainRun):
            settled = Cell(scores={}, accuracies={}, facts=_settling(prepared))
            self.cells.write(self.benchmark.settled(number, contender), settled)

    def _clean(
        self,
        prepared: Prepared,
        contender: Unlearner,
        number: int,
        project: Project,
        backdoor: Backdoor,
    ) -> None:
        """Forget the person with the backdoor, and ask before and after."""
        asked, queries = backdoor.asked(self.project), list(backdoor.queries)
        before = obeying(prepared, project, asked)[queries]
        spent = finish(prepared.forget(np.array(backdoor.records, dtype=np.int64)))
        after = obeying(prepared, project, asked)[queries]
        many = prepared.models > 1
        controls = self._own_controls(contender, number, project, backdoor) if many else []
        facts = {
            "controls": controls,
            "before": float(before.mean()),
            "after": float(after.mean()),
            "successes_before": int(before[:QUERIES].sum()),
            "successes": int(after[:QUERIES].sum()),
            "share": spent.share,
        }
        name = self.benchmark.cleaned(number, contender)
        self.cells.write(name, Cell(scores={}, accuracies={}, facts=facts))


def _prepared(
    contender: Unlearner, project: Project, place: Path, original: ChainOriginal
) -> Prepared:
    if isinstance(contender, OnChain):
        return original.copied(contender, place)
    place.mkdir(parents=True)
    return finish(contender.prepare(project, place))


def _total(spent: list[Cost]) -> dict[str, Any]:
    return {
        "seconds": sum(each.seconds for each in spent),
        "share": sum(each.share for each in spent),
        "records": sum(each.records for each in spent),
        "each": [asdict(each) for each in spent],
    }


def _settling(prepared: ChainRun) -> dict[str, Any]:
    """What it takes to make a chain exact."""
    facts: dict[str, Any] = {"seconds": 0.0, "share": 0.0}
    if prepared.run.guarantee != "exact":
        cost = finish(prepared.settle())
        facts = {"seconds": cost.seconds, "share": cost.share}
    return facts | {"digest": digest_of(prepared)}


def _trouble(error: ObliviateError) -> dict[str, str]:
    """What a row says of a method that could not do it."""
    kind = UNSUPPORTED
    if isinstance(error, NotFinite):
        kind = DIVERGED
    elif isinstance(error, TrainingFailed):
        kind = FAILED
    return {"trouble": kind, "reason": error.message}
