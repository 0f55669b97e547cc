"""Question: what the laboratory is asked, in a form that says which measurements answer it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.desk.subjects import record_ids
from obliviate.errors import InvalidOption, NothingLeft, UnknownSubject
from obliviate.lab.context import context_of, some
from obliviate.methods.exact import Exact
from obliviate.methods.registry import label_of, method_of, options_of
from obliviate.options import whole
from obliviate.recipe.parts import usual_keep
from obliviate.recipe.subjects import named_once
from obliviate.run.arguments import checked_keep, cut, data_length
from obliviate.run.make import new_trainer
from obliviate.text import shown
from obliviate.training.determinism import Environment
from obliviate.training.first_step import probe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from obliviate.methods.method import Method
    from obliviate.recipe.recipe import Project, Recipe
    from obliviate.recipe.subjects import Subject, Subjects
    from obliviate.training.protocol import BlockTrainer

RETAINED, TESTED = 200, 500  # records that scores are kept of; more would say little more
LEAST_SEEDS = 3  # an attack that leaves one model out needs two to fit a Gaussian to


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the laboratory is asked.

    Attributes:
        erased: Ids of the records to forget, sorted.
        retained: Ids of some records that stay.
        tested: Ids of some test records.
        controls: Ids of some retained records of the blocks of the last epoch that hold them.
        affected: The positions in the chain that hold the erased records, of all epochs, ascending.
        methods: The methods, "exact" first.
        seeds: How many originals, and as many independent retrains.
        context: A digest of everything else that a measurement depends on.
    """

    erased: tuple[int, ...]
    retained: tuple[int, ...]
    tested: tuple[int, ...]
    controls: tuple[int, ...]
    affected: tuple[int, ...]
    methods: tuple[Method, ...]
    seeds: int
    context: str

    def original(self, number: int) -> str:
        """The name of the cell of an original, which saw the records."""
        return self._name("original", number)

    def retrained(self, number: int) -> str:
        """The name of the cell of an independent retrain, which did not."""
        return self._name("retrained", number)

    def unlearned(self, number: int, method: Method) -> str:
        """The name of the cell of what a method made of an original."""
        options = options_of(method)
        del options["name"]  # it is the kind
        return self._name(method.name, number, options)

    def cells(self) -> list[str]:
        """The names of all cells that answer the question."""
        names = []
        for number in range(self.seeds):
            names += [self.original(number), self.retrained(number)]
            names += [self.unlearned(number, method) for method in self.methods]
        return names

    def _name(self, kind: str, number: int, options: dict[str, Any] | None = None) -> str:
        text = json.dumps([self.context, kind, number, options], sort_keys=True)
        return f"{kind}-{number}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def recipe_of(recipe: Recipe, number: int, *, is_original: bool) -> Recipe:
    """The recipe of one of the models: other weights and another order, the same blocks.

    The comparison is fair only if nothing but chance and the erased records differ between the
    families, so the block of every record stays what it is under the project's own seed.
    """
    block_seed = recipe.seed if recipe.block_seed is None else recipe.block_seed
    seed = recipe.seed + 2 * number + (0 if is_original else 1)
    return replace(recipe, seed=seed, block_seed=block_seed)


def question_of(
    project: Project,
    *,
    records: Iterable[int],
    subjects: Iterable[Subject],
    methods: Sequence[str | Method],
    seeds: int,
) -> Question:
    """See that a question can be answered, and put it down.

    Raises:
        InvalidRecipe, InvalidOption, UnknownRecord, UnknownSubject, UnknownMethod, NothingLeft: It
            cannot.
        NotDeterministic, TrainingFailed, NotFinite: A first step, tried twice, says so.
    """
    hint = f"give {LEAST_SEEDS} or more: each is a model to compare"
    seeds = whole(seeds, "seeds", least=LEAST_SEEDS, hint=hint)
    chosen = _with_exact(methods)
    count = data_length(project.data)
    blocks, people = cut(project.blocks, project.subjects, count)
    project = replace(project, blocks=blocks)
    erased = _erased(people, records, subjects, count)
    recipe = recipe_of(project.recipe, 0, is_original=True)
    _check_reach(chosen, _keep(project))
    with Environment(recipe.device, threads=1).entered():
        trainer = new_trainer(recipe, project.data, count, project.blocks, people)
        probe(trainer, erased)
        return _put_down(project, trainer, erased, chosen, seeds)


def _keep(project: Project) -> int:
    epochs = project.recipe.epochs
    usual = usual_keep(epochs, has_references=project.reference is not None)
    return checked_keep(project.keep, epochs) or usual


def _with_exact(methods: Sequence[str | Method]) -> tuple[Method, ...]:
    """The methods, each once, with "exact" first: every measure is read beside it."""
    if isinstance(methods, str):
        raise InvalidOption(f"methods is {methods!r}", hint="give a list of methods")
    found: list[Method] = [Exact()]
    for each in methods:
        method = method_of(each)
        if method not in found:
            found.append(method)
    return tuple(found)


def _check_reach(methods: Iterable[Method], kept: int) -> None:
    """See that every method finds the epochs that it goes back to, before hours are spent."""
    for method in methods:
        if method.reach is not None and method.reach > kept:
            raise InvalidOption(
                f"{label_of(method)} goes {method.reach} epochs back; the runs keep the last "
                f"{kept} in full",
                hint=f"give back={kept} or less, or the project keep={method.reach}",
            )


def _erased(
    people: Subjects | None, records: Iterable[int], subjects: Iterable[Subject], count: int
) -> NDArray[np.int64]:
    ids = record_ids(records, count)
    for subject in named_once(subjects):
        own = [at for at, who in enumerate(people or ()) if subject in who]
        if not own:
            raise UnknownSubject(
                f"subject {shown(subject)} has no records in the project",
                hint="check the spelling, or name record ids",
            )
        ids = np.union1d(ids, own)
    if not len(ids):
        raise InvalidOption("nobody is named", hint="give records=[...] or subjects=[...]")
    if len(ids) == count:
        raise NothingLeft(
            "these are all the records there are", hint="name fewer: a model of nobody has no seed"
        )
    return ids


def _put_down(
    project: Project,
    trainer: BlockTrainer,
    erased: NDArray[np.int64],
    methods: tuple[Method, ...],
    seeds: int,
) -> Question:
    layout = trainer.layout
    affected = layout.places(erased).touched
    last = affected[affected > layout.blocks - project.blocks]  # those of the last epoch
    near = np.concatenate([layout.members(int(block)) for block in last])
    tests = data_length(project.test) if project.test is not None else 0
    seed, everyone = project.recipe.seed, np.arange(layout.records, dtype=np.int64)
    sets = {
        "erased": erased,
        "retained": some(np.setdiff1d(everyone, erased), seed, RETAINED),
        "tested": some(np.arange(tests, dtype=np.int64), seed, TESTED),
        "controls": some(np.setdiff1d(near, erased), seed, RETAINED),
    }
    question = Question(
        **{name: tuple(ids.tolist()) for name, ids in sets.items()},
        affected=tuple(affected.tolist()),
        methods=methods,
        seeds=seeds,
        context="",
    )
    drawn = [question.erased, question.retained, question.tested, question.controls]
    context = context_of(
        project,
        trainer,
        erased=np.array(question.erased),
        read=np.union1d(question.retained, question.erased).astype(np.int64),
        facts={"affected": question.affected, "sets": drawn},
    )
    return replace(question, context=context)
