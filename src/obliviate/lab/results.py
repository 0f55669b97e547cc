"""Findings: what the cells of a question say, measured, in tables and pictures."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.lab.measurements import leave
from obliviate.lab.metrics import (
    Null,
    agreement,
    bias,
    klom,
    klom_easydub,
    null_of,
    shift,
    u_lira,
)
from obliviate.methods.registry import label_of, method_class
from obliviate.text import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from obliviate.lab.experiment import Question
    from obliviate.lab.measurements import Cell, Cells

    Scores = NDArray[np.float64]

FEW_BINS = 5  # with fewer than a hundred models
_PERCENTILE = 95
_FALSE_POSITIVES = 0.05
ORIGINAL = "nothing"
_NESTED = ("accuracies", "easydub", "foretold")
_EASYDUB_COLUMNS = {
    "erased": "easydub",  # the column that has a floor
    "retained": "easydub_retained",
    "tested": "easydub_tested",
}
_KINDS = ("mean", "low", "high")


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """How a method's predictions came true.

    A method that goes by references says what the exact replay would score the erased records; any
    other, by how much the original's score lies above that.

    Attributes:
        seeds: In how many seeds it made one.
        predicted: Mean over these seeds, in units of the score.
        found: What the exact replays of the same seeds show.
        covered: Share of seeds whose predicted interval holds what was found.
    """

    seeds: int
    predicted: float
    found: float
    covered: float


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one method made of the records, over all seeds.

    Attributes:
        method: As `method_of` takes it; "nothing" stands for the originals as they were.
        blocks_replayed: Median over the seeds.
        most_blocks_replayed: Over the seeds.
        seconds: Median, from the request to the usable model.
        shift: Of the erased records' scores against independent retrains.
        shift_tested: The same of test records: harm done to everybody else.
        bias: Mean signed distance to the exact replay of the same seed, in deviations; negative
            where the method over-forgets.
        bias_error: Its standard error over the seeds.
        klom: 95th percentile over the erased records, 5 bins.
        klom_retained: The same over retained records.
        klom_tested: The same over test records; None without any.
        easydub: KLoM as EasyDUB reports it, with 20 bins: to be read from 100 models on. 95th
            percentile over the records of each set: erased, retained and, with any, tested.
        auc: Of U-LiRA over the erased records.
        rate: Of U-LiRA: true positives at 5 % false positives.
        accuracies: Mean on the test records and on each probe.
        agreeing: Share of seeds whose model the laboratory cannot tell from a retrained one.
        passed: Share of seeds in which the method's own check found nothing; None without one.
        agreeing_of_passed: Share of those that the laboratory agrees with; None without any.
        foretold: How its predictions of the residue came true; None where it makes none.
    """

    method: str
    blocks_replayed: float
    most_blocks_replayed: int
    seconds: float
    shift: float
    shift_tested: float | None
    bias: float
    bias_error: float
    klom: float
    klom_retained: float
    klom_tested: float | None
    easydub: dict[str, float]
    auc: float
    rate: float
    accuracies: dict[str, float | None]
    agreeing: float
    passed: float | None
    agreeing_of_passed: float | None
    foretold: Foretold | None


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What the measures say of retrained models against retrained models: chance alone."""

    shift: Null
    klom: Null
    klom_retained: Null
    easydub: Null
    auc: Null
    rate: Null


@dataclass(frozen=True, kw_only=True)
class Fade:
    """The gap of the erased records between original and exact replay, over lags.

    Attributes:
        lags: 1 is the last position that holds one of the records, in the last epoch.
        erased: Mean gap over the records and seeds, in units of the score.
        deviation: Of that mean over the seeds.
        controls: Mean over retained records of the same blocks.
        a: Of the fitted law a·x^(-h); None where the gap is not above zero at three lags.
        h: Its exponent.
    """

    lags: tuple[int, ...]
    erased: tuple[float, ...]
    deviation: tuple[float, ...]
    controls: tuple[float, ...]
    a: float | None
    h: float | None


@dataclass(frozen=True, kw_only=True)
class Lab:
    """What the laboratory found.

    Attributes:
        seeds: How many originals, and as many independent retrains.
        records: How many were to be forgotten.
        affected: The positions in the chain that held them, of all epochs.
        blocks: How many positions there are, blocks times epochs.
        findings: The originals first, then the exact replay, then the methods.
        floor: What chance alone gives.
        fade: How the trace fades.
    """

    seeds: int
    records: int
    affected: tuple[int, ...]
    blocks: int
    findings: tuple[Finding, ...]
    floor: Floor
    fade: Fade

    def of(self, method: str) -> Finding:
        """The finding of a method, by the name in its row."""
        return next(each for each in self.findings if each.method == method)


def findings_of(question: Question, cells: Cells) -> Lab:
    """Measure what the cells say.

    Raises:
        RunDamaged: A cell is missing.
    """
    numbers = range(question.seeds)
    families = {ORIGINAL: [cells.read(question.original(number)) for number in numbers]}
    for method in question.methods:
        names = (question.unlearned(number, method) for number in numbers)
        families[label_of(method)] = [cells.read(name) for name in names]
    retrained = [cells.read(question.retrained(number)) for number in numbers]
    exact = families["exact"]
    return Lab(
        seeds=question.seeds,
        records=len(question.erased),
        affected=question.affected,
        blocks=int(exact[0].facts["blocks_total"]),
        findings=tuple(
            _finding(name, family, families[ORIGINAL], exact, retrained)
            for name, family in families.items()
        ),
        floor=_floor([*exact, *retrained]),
        fade=_fade([cell.facts["gap"] for cell in exact]),
    )


def _matrix(family: Sequence[Cell], name: str) -> Scores:
    return np.stack([cell.of(name) for cell in family])


def _finding(
    method: str,
    family: Sequence[Cell],
    originals: Sequence[Cell],
    exact: Sequence[Cell],
    retrained: Sequence[Cell],
) -> Finding:
    erased, others = _matrix(family, "erased"), _matrix(retrained, "erased")
    has_test = "tested" in family[0].scores
    tests = (_matrix(family, "tested"), _matrix(retrained, "tested")) if has_test else None
    reference = np.concatenate([_matrix(exact, "erased"), others])
    missed, error = bias(erased, _matrix(exact, "erased"), reference.std(axis=0, ddof=1))
    attack = u_lira(erased, others, (_FALSE_POSITIVES,))
    replayed = [int(cell.facts.get("blocks_replayed", 0)) for cell in family]
    # a model's own seed is left out: its exact replay resembles it, forgotten or not
    agreeing = [
        agreement(own, np.delete(reference, row, axis=0)).agrees for row, own in enumerate(erased)
    ]
    passed = [_passed(cell) for cell in family]
    return Finding(
        method=method,
        blocks_replayed=float(np.median(replayed)),
        most_blocks_replayed=max(replayed),
        seconds=float(np.median([cell.facts["seconds"] for cell in family])),
        shift=shift(erased, others),
        shift_tested=shift(tests[0], tests[1]) if tests else None,
        bias=missed,
        bias_error=error,
        klom=_klom(erased, others),
        klom_retained=_klom(_matrix(family, "retained"), _matrix(retrained, "retained")),
        klom_tested=_klom(tests[0], tests[1]) if tests else None,
        easydub={
            name: _easydub(_matrix(family, name), _matrix(retrained, name))
            for name in family[0].scores
        },
        auc=attack.auc,
        rate=attack.rates[_FALSE_POSITIVES],
        accuracies={name: _mean_of(family, name) for name in family[0].accuracies},
        agreeing=float(np.mean(agreeing)),
        passed=None if None in passed else float(np.mean([bool(each) for each in passed])),
        agreeing_of_passed=_share(
            [agrees for agrees, fine in zip(agreeing, passed, strict=True) if fine]
        ),
        foretold=_foretold(family, originals, exact),
    )


def _foretold(
    family: Sequence[Cell], originals: Sequence[Cell], exact: Sequence[Cell]
) -> Foretold | None:
    rows = []
    for cell, original, replayed in zip(family, originals, exact, strict=True):
        scored = float(replayed.of("erased").mean())
        if (ending := cell.facts.get("ending")) is not None:
            is_inside = ending["low"] <= scored <= ending["high"]
            rows.append((ending["target"], scored, is_inside))
            continue
        last = (cell.facts.get("stitches") or [{}])[-1]
        if last.get("predicted") is not None and last["until"] == cell.facts["blocks_total"]:
            found = float(original.of("erased").mean()) - scored
            rows.append((last["predicted"], found, last["low"] <= found <= last["high"]))
    if not rows:
        return None
    predicted, found, covered = np.mean(np.array(rows, dtype=float), axis=0).tolist()
    return Foretold(seeds=len(rows), predicted=predicted, found=found, covered=covered)


def _passed(cell: Cell) -> bool | None:
    """Whether the method's own check found nothing in what it left; None where it makes none.

    A stitch that failed and was put off by more replay counts no more.
    """
    name = cell.facts.get("method")
    if name is None or not method_class(name).checks:
        return None
    last = {each["until"]: each["has_passed"] for each in cell.facts["stitches"]}
    return cell.facts["guarantee"] == "exact" or all(last.values())


def _share(flags: Sequence[bool]) -> float | None:
    return float(np.mean(flags)) if flags else None


def _mean_of(family: Sequence[Cell], name: str) -> float | None:
    values = [cell.accuracies[name] for cell in family]
    known = [each for each in values if each is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _klom(unlearned: Scores, retrained: Scores) -> float:
    return float(np.percentile(klom(unlearned, retrained, bins=FEW_BINS), _PERCENTILE))


def _easydub(unlearned: Scores, retrained: Scores) -> float:
    return float(np.percentile(klom_easydub(unlearned, retrained), _PERCENTILE))


def _floor(retrained: Sequence[Cell]) -> Floor:
    erased = _matrix(retrained, "erased")
    measures: dict[str, Callable[[Scores, Scores], float]] = {
        "shift": shift,
        "klom": _klom,
        "easydub": _easydub,
        "auc": lambda left, right: u_lira(left, right).auc,
        "rate": lambda left, right: u_lira(left, right).rates[_FALSE_POSITIVES],
    }
    nulls = {name: null_of(measure, erased) for name, measure in measures.items()}
    return Floor(**nulls, klom_retained=null_of(_klom, _matrix(retrained, "retained")))


def _fade(gaps: Sequence[dict[str, Any]]) -> Fade:
    lags = np.array(gaps[0]["lags"], dtype=float)
    erased = np.array([each["erased"] for each in gaps], dtype=float)
    mean = erased.mean(axis=0)
    a, h = _law(lags, mean)
    return Fade(
        lags=tuple(gaps[0]["lags"]),
        erased=tuple(mean.tolist()),
        deviation=tuple((erased.std(axis=0, ddof=1) / np.sqrt(len(gaps))).tolist()),
        controls=tuple(np.mean([each["controls"] for each in gaps], axis=0).tolist()),
        a=a,
        h=h,
    )


def _law(lags: Scores, gap: Scores) -> tuple[float | None, float | None]:
    """The power law a·x^(-h) through a gap, by least squares of the logarithms.

    Lag 1, the records' own block, lies above the law, so it is left out.
    """
    is_used = (lags > 1) & (gap > 0)
    if is_used.sum() < 3:  # noqa: PLR2004 - two parameters, and one value more
        return None, None
    slope, height = np.polyfit(np.log(lags[is_used]), np.log(gap[is_used]), 1)
    return float(np.exp(height)), float(-slope)


# Leaving it behind


def written(found: Lab, folder: Path) -> None:
    """Leave the findings in a folder, as JSON, as CSV and as two pictures.

    Raises:
        StorageFull: It cannot be written to.
    """
    from obliviate.lab.charts import gap_picture, shift_picture  # noqa: PLC0415 - a second

    files = {
        "lab.json": json.dumps(plain(found), indent=1, allow_nan=False).encode(),
        "lab.csv": as_csv(found).encode(),
        "gap.png": gap_picture(found),
        "shift.png": shift_picture(found),
    }
    leave(folder, files)


def as_csv(found: Lab) -> str:
    """A line for each method, and the floor's mean, low and high as further lines."""
    rows = []
    for each in found.findings:
        facts = {name: value for name, value in vars(each).items() if name not in _NESTED}
        facts |= {f"accuracy_{name}": at for name, at in each.accuracies.items()}
        facts |= {_EASYDUB_COLUMNS[name]: at for name, at in each.easydub.items()}
        foretold = vars(each.foretold) if each.foretold else {}
        rows.append(facts | {f"foretold_{name}": value for name, value in foretold.items()})
    for kind in _KINDS:
        nulls = {name: getattr(null, kind) for name, null in vars(found.floor).items()}
        rows.append({"method": f"floor {kind}", **nulls})
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows[: -len(_KINDS)] for name in row))
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
