"""Benchmarks: what is compared, in a form that says which measurements answer it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.errors import InvalidOption, Unsupported
from obliviate.lab.bench.backdoor import SHARE, backdoor_of
from obliviate.lab.bench.contender import OnChain, contenders_of, facts_of
from obliviate.lab.bench.stream import Stream, stream_of
from obliviate.lab.context import context_of, some
from obliviate.lab.experiment import recipe_of
from obliviate.options import listed, whole
from obliviate.run.arguments import cut, data_length
from obliviate.run.make import new_trainer
from obliviate.training.determinism import Environment
from obliviate.training.first_step import probe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from obliviate.lab.baselines import Unlearner
    from obliviate.methods.method import Method
    from obliviate.recipe.recipe import Project

TESTED = 2000  # test records whose predictions are kept
_READ = 200
_NOBODY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is compared.

    Attributes:
        stream: Who asks, as far as the longest series of requests goes.
        requests: After how many requests models are measured, ascending.
        contenders: The methods.
        seeds: How often everything is done, with other weights and another order of training each
            time; the blocks and the stream stay.
        records: How many records are trained on.
        tested: Ids of the test records whose predictions are compared.
        share: Of the records that carry a backdoor in a second training; 0 for none.
        no_backdoor: Why there is none, where one was asked for.
        context: A digest of everything else that a measurement depends on.
    """

    stream: Stream
    requests: tuple[int, ...]
    contenders: tuple[Unlearner, ...]
    seeds: int
    records: int
    tested: tuple[int, ...]
    share: float
    no_backdoor: str
    context: str

    @property
    def determinism(self) -> str:
        """The name of the cell of what determinism costs: one for all seeds and methods."""
        return self._name("determinism", 0)

    def original(self, number: int, requests: int) -> str:
        """The name of the cell of a model that saw everything, before so many requests."""
        return self._streamed("original", number, requests)

    def retrained(self, number: int, requests: int, *, is_own: bool) -> str:
        """The name of the cell of a retrain: of the seed itself, or an independent one."""
        return self._streamed("retrained" if is_own else "independent", number, requests)

    def unlearned(self, number: int, requests: int, contender: Unlearner) -> str:
        """The name of the cell of what a method made of so many requests."""
        return self._streamed(_kind(contender), number, requests, facts_of(contender))

    def settled(self, number: int, contender: Unlearner) -> str:
        """The name of the cell of what it takes to make a chain exact after all requests."""
        kind, last = f"{_kind(contender)}-settled", max(self.requests)
        return self._streamed(kind, number, last, facts_of(contender))

    def control(self, number: int, which: int) -> str:
        """The name of the cell of a retrain without the records with the backdoor."""
        return self._name("control", number, self.share, which)

    def cleaned(self, number: int, contender: Unlearner) -> str:
        """The name of the cell of what a method made of a model with the backdoor."""
        kind = f"{_kind(contender)}-backdoor"
        return self._name(kind, number, self.share, facts_of(contender))

    def _streamed(self, kind: str, number: int, requests: int, *facts: Any) -> str:
        return self._name(kind, number, self.stream.requests[:requests], self.tested, *facts)

    def _name(self, kind: str, number: int, *facts: Any) -> str:
        text = json.dumps([self.context, kind, number, *facts], sort_keys=True)
        return f"{kind}-{number}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _kind(contender: Unlearner) -> str:
    return contender.method.name if isinstance(contender, OnChain) else contender.name


def benchmark_of(
    project: Project,
    *,
    methods: Iterable[str | Method | Unlearner],
    requests: Iterable[int],
    size: int | None,
    seeds: int,
    has_backdoor: bool,
) -> Benchmark:
    """See that a comparison can be made, and put it down.

    Raises:
        InvalidRecipe, InvalidOption, UnknownMethod, NothingLeft: It cannot.
        NotDeterministic, TrainingFailed, NotFinite: A first step, tried twice, says so.
    """
    contenders = contenders_of(methods)
    counts = _counts(requests)
    seeds = whole(seeds, "seeds", least=1, hint="give 1 or more: each is a training of everything")
    if size is not None:
        size = whole(size, "size", least=1, hint="give the records of each request, 1 or more")
    records = data_length(project.data)
    blocks, people = cut(project.blocks, project.subjects, records)
    seed = project.recipe.seed
    stream = stream_of(people, records, longest=counts[-1], size=size, seed=seed)
    tests = data_length(project.test) if project.test is not None else 0
    recipe = recipe_of(project.recipe, 0, is_original=True)
    with Environment(recipe.device, threads=1).entered():
        trainer = new_trainer(recipe, project.data, records, blocks, people)
        probe(trainer, _NOBODY)
        no_backdoor = _fault_of_backdoor(project) if has_backdoor else ""
        made = replace(project, blocks=blocks)
        read = some(np.arange(records, dtype=np.int64), seed, _READ)
        context = context_of(made, trainer, erased=_NOBODY, read=read, facts={"bench": True})
    return Benchmark(
        stream=stream,
        requests=counts,
        contenders=contenders,
        seeds=seeds,
        records=records,
        tested=tuple(some(np.arange(tests, dtype=np.int64), seed, TESTED).tolist()),
        share=SHARE if has_backdoor and not no_backdoor else 0.0,
        no_backdoor=no_backdoor,
        context=context,
    )


def _counts(requests: Iterable[int]) -> tuple[int, ...]:
    hint = "give a list of how many requests to measure after, such as [1, 10]"
    given = listed(requests, "requests", hint)
    counts = sorted({whole(each, "requests", least=1, hint=hint) for each in given})
    if not counts:
        raise InvalidOption("requests names no number", hint=hint)
    return tuple(counts)


def _fault_of_backdoor(project: Project) -> str:
    try:
        backdoor_of(project, project.recipe.seed)
    except Unsupported as error:
        return error.message
    return ""
