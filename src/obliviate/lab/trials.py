"""Trials: the models that answer a question, made and measured one seed at a time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.events import watch
from obliviate.lab.accuracy import accuracy
from obliviate.lab.experiment import recipe_of
from obliviate.lab.fitting import fitting
from obliviate.lab.measurements import Cell, Cells
from obliviate.lab.scores import scores
from obliviate.run import load
from obliviate.training.averages import served_state
from obliviate.training.batches import feed_of
from obliviate.training.determinism import Environment
from obliviate.training.model import load_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from obliviate.lab.experiment import Question
    from obliviate.methods.method import Method
    from obliviate.recipe.recipe import Project, Recipe
    from obliviate.run import Run

RUNS_NAME = "runs"
_DENSE_LAGS, _GAP_LAGS = 8, 24  # where a power law bends, and how many lags are looked at in all


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One seed's worth of models: an original and what each method makes of it, or a retrain.

    Attributes:
        number: 0..seeds-1.
        is_original: Whether the records are trained on first.
    """

    number: int
    is_original: bool

    @property
    def name(self) -> str:
        """What it is called among the trials of its question."""
        return f"{'original' if self.is_original else 'retrained'}-{self.number}"

    @classmethod
    def all_of(cls, question: Question) -> list[Trial]:
        """All trials of a question."""
        return [
            cls(number=number, is_original=is_original)
            for number in range(question.seeds)
            for is_original in (True, False)
        ]

    def missing(self, question: Question, cells: Cells) -> list[str]:
        """The names of its cells that have not been measured yet."""
        if not self.is_original:
            names = [question.retrained(self.number)]
        else:
            names = [question.original(self.number)]
            names += [question.unlearned(self.number, each) for each in question.methods]
        return [name for name in names if name not in cells]


class Workplace:
    """Where the trials of one question are carried out; each leaves its cells and nothing else.

    Attributes:
        keeps: Whether originals stay in the folder, so that a method asked for later finds them.
        environment: What bits depend on; see `environment_facts`.
    """

    def __init__(
        self,
        project: Project,
        question: Question,
        folder: Path,
        *,
        keeps: bool,
        environment: Mapping[str, str],
    ) -> None:
        self.project, self.question, self.folder = project, question, folder
        self.cells = Cells(folder)
        self.keeps, self.environment = keeps, environment

    def carry_out(self, trial: Trial) -> None:
        """Make and measure what is missing of a trial; what a killed process left goes on.

        Raises:
            NotFinite, TrainingFailed, StorageFull: A model could not be made.
        """
        missing = trial.missing(self.question, self.cells)
        if not missing:
            return
        recipe = recipe_of(self.project.recipe, trial.number, is_original=trial.is_original)
        # always one thread: bits depend on the number, and workers must not change the answer
        with Environment(recipe.device, 1, self.environment).entered():
            if trial.is_original:
                self._original(recipe, trial.number, missing)
            else:
                self._retrain(recipe, self.question.retrained(trial.number))

    def _place(self, name: str) -> Path:
        # the context is in the name: another question's runs must not be taken for this one's
        return self.folder / RUNS_NAME / f"{name}-{self.question.context[:12]}"

    def _retrain(self, recipe: Recipe, name: str) -> None:
        place = self._place(f"retrained-{recipe.seed}")
        run = self._fitted(recipe, place, exclude=self.question.erased)
        self.cells.write(name, self._measured(run.model, recipe, _training_facts(run)))
        run.ledger.close()
        shutil.rmtree(place)

    def _original(self, recipe: Recipe, number: int, missing: list[str]) -> None:
        place = self._place(f"original-{recipe.seed}")
        run = self._fitted(recipe, place)
        name = self.question.original(number)
        if name in missing:
            self.cells.write(name, self._measured(run.model, recipe, _training_facts(run)))
        for method in self.question.methods:
            name = self.question.unlearned(number, method)
            if name in missing:
                self._unlearn(run, method, name)
        run.ledger.close()
        if not self.keeps:
            shutil.rmtree(place)

    def _fitted(self, recipe: Recipe, place: Path, exclude: tuple[int, ...] = ()) -> Run:
        return watch(fitting(replace(self.project, recipe=recipe), place, exclude=exclude))

    def _unlearn(self, run: Run, method: Method, name: str) -> None:
        place = run.folder.with_name(f"{run.folder.name}-{method.name}")
        shutil.rmtree(place, ignore_errors=True)  # a killed process's; a copy is made in no time
        shutil.copytree(run.folder, place)
        copy = load(place, run.recipe, run.data, reference=self.project.reference)
        erasure = copy.forget(records=self.question.erased, method=method)
        facts = erasure.facts()
        if method.is_exact:
            facts["gap"] = self._gap(run, copy)
        self.cells.write(name, self._measured(erasure.model, run.recipe, facts))
        copy.ledger.close()
        shutil.rmtree(place)

    def _measured(self, model: nn.Module, recipe: Recipe, facts: dict[str, Any]) -> Cell:
        project, question, device = self.project, self.question, recipe.device
        feed, found = feed_of(project.data, 0, collate=recipe.collate), {}
        for name in ("erased", "retained"):
            found[name] = scores(model, recipe, feed, np.array(getattr(question, name)))
        if project.test is not None:
            tested = np.array(question.tested, dtype=np.int64)
            found["tested"] = scores(
                model, recipe, feed_of(project.test, 0, collate=recipe.collate), tested
            )
        probes = {"test": project.test} if project.test is not None else {}
        return Cell(
            scores={name: tuple(values.tolist()) for name, values in found.items()},
            accuracies={
                name: accuracy(model, data, device, recipe.collate)
                for name, data in (probes | dict(project.probes or {})).items()
            },
            facts=facts,
        )

    def _gap(self, original: Run, replayed: Run) -> dict[str, list[float]]:
        """How much better the erased records fit the original than the exact replay, over lags.

        The lag counts from the last position that holds one: 1 is that block itself, in the last
        epoch, all of whose states are kept.
        """
        first, chains = self.question.affected[-1], (original.chain(), replayed.chain())
        recipe = original.recipe
        feed = feed_of(self.project.data, 0, collate=recipe.collate)
        model = original.trainer.model.eval()
        found: dict[str, list[float]] = {"lags": [], "erased": [], "controls": []}
        for lag in lags_up_to(chains[0].length - first + 1):
            found["lags"].append(lag)
            states = [chain.state(first + lag - 1) for chain in chains]
            for name in ("erased", "controls"):
                ids = np.array(getattr(self.question, name), dtype=np.int64)
                means = []
                for state in states:
                    load_state(original.trainer.model, served_state(state))
                    means.append(scores(model, recipe, feed, ids).mean() if len(ids) else 0.0)
                found[name].append(float(means[0] - means[1]))
        return found


def lags_up_to(last: int) -> list[int]:
    """The lags that the gap is measured at: all of the first few, then ever fewer, and the last."""
    far = np.geomspace(1, max(last, 1), _GAP_LAGS).round().astype(int).tolist()
    return sorted({lag for lag in (*range(1, _DENSE_LAGS + 1), *far) if lag <= last})


def _training_facts(run: Run) -> dict[str, Any]:
    seconds = sum(entry.seconds for entry in run.chain().entries)
    return {"digest": run.digest, "seconds": seconds, "blocks_total": run.facts.blocks}
