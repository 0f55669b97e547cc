"""Comparisons: what the cells of a benchmark say, a row for each method and number of requests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from obliviate.lab.bench.contender import RETRAIN, OnChain, label_of
from obliviate.lab.bench.deletion import LEVEL, QUERIES, deletion_test
from obliviate.lab.bench.trials import CONTROLS
from obliviate.lab.metrics import shift
from obliviate.lab.results import ORIGINAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from obliviate.lab.baselines import Unlearner
    from obliviate.lab.bench.benchmark import Benchmark
    from obliviate.lab.measurements import Cell, Cells
    from obliviate.lab.strictness import Strictness

_FOR_SHIFT = 2  # models of each family


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What the test of deletion says of a planted backdoor, over all seeds.

    Attributes:
        before: How often the trigger works on the model before, mean over the seeds.
        after: The same of what the method left.
        clean: The same of independent retrains that never saw it, the most of them; of a method
            with several models, of such models.
        seeds: In how many seeds it was asked.
        rejected_before: In how many of them deletion is not believed of the model before.
        accepted: In how many it is believed of what the method left.
        power: How often a model that keeps it is rejected, mean over the seeds.
    """

    before: float
    after: float
    clean: float
    seeds: int
    rejected_before: int
    accepted: int
    power: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one method made of so many requests, over all seeds.

    Means over the seeds; times are medians. Fields are None where there is nothing to measure.

    Attributes:
        method: With its options; "nothing" stands for the originals as they were, "retrain" for
            what training anew for each request costs, and gives.
        requests: How many, one after the other.
        trouble: "unsupported", "diverged" or "failed" where it could not be measured; else "".
        reason: Why not.
        accuracy_before: On the test records, before the first request.
        accuracy: The same after the last.
        accuracy_forgotten: On the forgotten records, after.
        loss_forgotten: Their mean loss, after.
        speedup: Records that as many retrains train on, relative to what the method did.
        speedup_seconds: The same of seconds until the model can be used.
        seconds: Of all requests together, until the last model can be used.
        share: What a request costs, as a share of the records of one retrain.
        settle_share: What it takes to make the end exact, beside, as such a share: once, after the
            longest stream.
        settle_seconds: How long that takes.
        training_seconds: How long the training before the first request takes.
        disk_bytes: What is kept to forget with, after the last request.
        models: How many models a prediction asks.
        predict_seconds: How long a thousand predictions take.
        agreement: Share of test records that an independent retrain gives the same class.
        agreement_own: The same of the retrain of the same seed.
        identical: Share of seeds in which the model is, bit for bit, the retrain of its seed; None
            of several models.
        identical_settled: The same of the model once it is settled.
        shift: Of the forgotten records' scores against independent retrains, in deviations; with
            two seeds or more.
        backdoor: What came of a planted backdoor: one request in a training of its own, alike in
            all rows of a method.
    """

    method: str
    requests: int
    trouble: str = ""
    reason: str = ""
    accuracy_before: float | None = None
    accuracy: float | None = None
    accuracy_forgotten: float | None = None
    loss_forgotten: float | None = None
    speedup: float | None = None
    speedup_seconds: float | None = None
    seconds: float | None = None
    share: float | None = None
    settle_share: float | None = None
    settle_seconds: float | None = None
    training_seconds: float | None = None
    disk_bytes: float | None = None
    models: int | None = None
    predict_seconds: float | None = None
    agreement: float | None = None
    agreement_own: float | None = None
    identical: float | None = None
    identical_settled: float | None = None
    shift: float | None = None
    backdoor: Verdicts | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a benchmark found.

    Attributes:
        seeds: How often everything was done.
        records: How many records are trained on.
        blocks: How many blocks an epoch is cut into.
        epochs: How many epochs there are.
        noun: What each request is: "person", "record" or "group of 20 records".
        requests: After how many of them models were measured.
        erased: How many records those are.
        rows: For each number of requests: the originals, the retrains, then the methods.
        queries: How many queries a test of deletion makes.
        level: How often it may reject a model that never saw the backdoor.
        no_backdoor: Why none was planted, where one was asked for.
        determinism: What training the same each time costs all of them.
    """

    seeds: int
    records: int
    blocks: int
    epochs: int
    noun: str
    requests: tuple[int, ...]
    erased: tuple[int, ...]
    rows: tuple[Row, ...]
    determinism: Strictness
    queries: int = QUERIES
    level: float = LEVEL
    no_backdoor: str = ""

    def of(self, method: str, requests: int | None = None) -> Row:
        """The row of a method, by its name there; of the longest stream if None."""
        wanted = max(self.requests) if requests is None else requests
        return next(each for each in self.rows if (each.method, each.requests) == (method, wanted))

    @property
    def methods(self) -> tuple[str, ...]:
        """The names in the rows, each once."""
        return tuple(dict.fromkeys(each.method for each in self.rows))


class Reader:
    """What the cells of a benchmark say.

    Attributes:
        benchmark: What was asked.
    """

    def __init__(self, benchmark: Benchmark, cells: Cells) -> None:
        self.benchmark, self._cells = benchmark, cells
        self._numbers = range(benchmark.seeds)

    def rows(self) -> list[Row]:
        """All rows.

        Raises:
            RunDamaged: A cell is missing.
        """
        verdicts = {each: self.verdicts(each) for each in self.benchmark.contenders}
        return [row for count in self.benchmark.requests for row in self._rows(count, verdicts)]

    def _rows(self, count: int, verdicts: Mapping[Unlearner, Verdicts | None]) -> Iterator[Row]:
        """The rows of one number of requests."""
        ask = self.benchmark
        retrains = _Retrains(
            own=self._family(lambda at: ask.retrained(at, count, is_own=True)),
            others=self._family(lambda at: ask.retrained(at, count, is_own=False)),
        )
        originals = self._family(lambda at: ask.original(at, count))
        training = _median([each.facts["training_seconds"] for each in originals])
        nothing = _worth(ORIGINAL, count, originals, retrains)
        before = nothing.accuracy
        yield replace(nothing, accuracy_before=before, training_seconds=training)
        yield replace(retrains.row(count), accuracy_before=before, training_seconds=training)
        for contender, found in verdicts.items():
            row = self._row(contender, count, retrains)
            yield replace(row, backdoor=found)

    def _row(self, contender: Unlearner, count: int, retrains: _Retrains) -> Row:
        family = self._family(lambda at: self.benchmark.unlearned(at, count, contender))
        row = _row(label_of(contender), count, family, retrains)
        is_last = count == max(self.benchmark.requests)
        if row.trouble or not is_last or not isinstance(contender, OnChain):
            return row
        settled = self._family(lambda at: self.benchmark.settled(at, contender))
        return replace(
            row,
            settle_share=_mean_of(settled, "share"),
            settle_seconds=_median([each.facts["seconds"] for each in settled]),
            identical_settled=_same([each.facts["digest"] for each in settled], retrains),
        )

    def _family(self, name_of: Callable[[int], str]) -> list[Cell]:
        return [self._cells.read(name_of(number)) for number in self._numbers]

    def verdicts(self, contender: Unlearner) -> Verdicts | None:
        """What the test of deletion says of a contender; None where nothing could be planted.

        Raises:
            RunDamaged: A cell is missing.
        """
        if not self.benchmark.share:
            return None
        cleaned = self._family(lambda at: self.benchmark.cleaned(at, contender))
        if any("trouble" in each.facts for each in cleaned):
            return None
        rates, tests = [], []
        for number, cell in zip(self._numbers, cleaned, strict=True):
            clean = max(cell.facts["controls"], default=self._clean(number))
            rates.append(clean)
            tests.append(deletion_test(clean, cell.facts["before"]))
        after = [cell.facts["successes"] for cell in cleaned]
        before = [cell.facts["successes_before"] for cell in cleaned]
        return Verdicts(
            before=_average([cell.facts["before"] for cell in cleaned]),
            after=_average([cell.facts["after"] for cell in cleaned]),
            clean=_average(rates),
            seeds=len(cleaned),
            rejected_before=sum(
                not test.accepts(each) for test, each in zip(tests, before, strict=True)
            ),
            accepted=sum(test.accepts(each) for test, each in zip(tests, after, strict=True)),
            power=_average([each.power for each in tests]),
        )

    def _clean(self, number: int) -> float:
        """How often a model that never saw the trigger gives its target: the most of the controls.

        The most, since they differ from one another by more than the draws of the queries.
        """
        names = [self.benchmark.control(number, which) for which in range(CONTROLS)]
        return float(max(self._cells.read(name).facts["obeyed"] for name in names))


@dataclass(frozen=True, kw_only=True)
class _Retrains:
    """What methods are compared with: the retrains of the same seeds, and independent ones."""

    own: Sequence[Cell]
    others: Sequence[Cell]

    def row(self, count: int) -> Row:
        """The row of the retrains: what chance alone gives, and what others are held to."""
        row = _worth(RETRAIN, count, self.own, self)
        seconds = float(np.median([each.facts["seconds"] for each in self.own]))
        return replace(row, speedup=1.0, speedup_seconds=1.0, seconds=count * seconds, share=1.0)


def _row(name: str, count: int, family: Sequence[Cell], retrains: _Retrains) -> Row:
    troubled = [each for each in family if "trouble" in each.facts]
    if troubled:
        facts, many = troubled[0].facts, f"in {len(troubled)} of {len(family)} seeds: "
        reason = facts["reason"] if len(troubled) == len(family) else many + facts["reason"]
        return Row(method=name, requests=count, trouble=facts["trouble"], reason=reason)
    share = _average([each.facts["share"] for each in family])
    own = [each.facts["seconds"] for each in retrains.own]
    seconds = [each.facts["seconds"] for each in family]
    faster = [
        count * whole / taken if taken else None for whole, taken in zip(own, seconds, strict=True)
    ]
    return replace(
        _worth(name, count, family, retrains),
        speedup=count / share if share else None,
        speedup_seconds=_median(faster),
        seconds=_median(seconds),
        share=share / count,
        training_seconds=_median([each.facts["training_seconds"] for each in family]),
    )


def _worth(name: str, count: int, family: Sequence[Cell], retrains: _Retrains) -> Row:
    """What models are worth, whatever they cost."""
    return Row(
        method=name,
        requests=count,
        accuracy_before=_mean_of(family, "accuracy_before"),
        accuracy=_mean([each.accuracies["test"] for each in family]),
        accuracy_forgotten=_mean([each.accuracies["erased"] for each in family]),
        loss_forgotten=_mean_of(family, "loss"),
        disk_bytes=_mean_of(family, "disk_bytes"),
        models=max(each.facts["models"] for each in family),
        predict_seconds=_median([each.facts["predict_seconds"] for each in family]),
        agreement=_agreement(family, retrains.others),
        agreement_own=_agreement(family, retrains.own),
        identical=_same([each.facts["digest"] for each in family], retrains),
        shift=_shift(family, retrains.others),
    )


def _agreement(family: Sequence[Cell], retrains: Sequence[Cell]) -> float | None:
    shares = []
    for cell, retrained in zip(family, retrains, strict=True):
        left, right = cell.facts["predictions"], retrained.facts["predictions"]
        if left is None or right is None:
            return None
        shares.append(float(np.mean(np.array(left) == np.array(right))))
    return _mean(shares)


def _same(digests: Sequence[str | None], retrains: _Retrains) -> float | None:
    if None in digests:
        return None
    own = [each.facts["digest"] for each in retrains.own]
    pairs = zip(digests, own, strict=True)
    return float(np.mean([digest == its for digest, its in pairs]))


def _shift(family: Sequence[Cell], retrains: Sequence[Cell]) -> float | None:
    if len(family) < _FOR_SHIFT:
        return None
    left, right = (np.stack([each.of("erased") for each in cells]) for cells in (family, retrains))
    return shift(left, right)


def _average(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _mean_of(family: Sequence[Cell], name: str) -> float | None:
    return _mean([each.facts.get(name) for each in family])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return float(np.median(known)) if known and len(known) == len(values) else None
