"""Tables: a comparison in columns, for terminals, for Markdown and for other programs."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from obliviate.lab.bench.comparison import Row
from obliviate.lab.strictness import TURNS
from obliviate.text import counted, duration, milliseconds, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from obliviate.lab.bench.comparison import Comparison, Verdicts
    from obliviate.lab.strictness import Strictness

NONE = "–"
_MANY, _SOME = 100, 10


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: At its head.
        meaning: What stands in it, in a sentence.
        text: A row's cell.
        is_wide: Whether it is left out where there is no room.
    """

    name: str
    meaning: str
    text: Callable[[Row], str]
    is_wide: bool = False


def columns(*, is_wide: bool) -> list[Column]:
    """The columns behind the method's: those that are always shown, or the further ones."""
    return [each for each in _COLUMNS if each.is_wide == is_wide]


def all_columns() -> list[Column]:
    """All columns, in their order."""
    return list(_COLUMNS)


def name_of(row: Row) -> str:
    """A method as its row begins: with what is wrong, where something is."""
    return f"{row.method} ({row.trouble})" if row.trouble else row.method


def sections(comparison: Comparison) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each number of requests, under a heading."""
    for count in comparison.requests:
        rows = [each for each in comparison.rows if each.requests == count]
        heading = f"after {counted(count, 'request')}"
        yield heading, rows


def heading_of(comparison: Comparison) -> str:
    """What was done, in a sentence."""
    cut = f"{counted(comparison.blocks, 'block')} an epoch, {counted(comparison.epochs, 'epoch')}"
    asked = ", ".join(
        f"{counted(count, 'request')} for {counted(erased, 'record')}"
        for count, erased in zip(comparison.requests, comparison.erased, strict=True)
    )
    return (
        f"{counted(comparison.records, 'record')}, {cut}; {counted(comparison.seeds, 'seed')}; "
        f"each request is a {comparison.noun}: {asked}"
    )


def notes_of(comparison: Comparison) -> list[str]:
    """What has to be said beside the table."""
    troubled = [each for each in comparison.rows if each.trouble]
    notes = dict.fromkeys(f"{each.method} {each.trouble}: {each.reason}" for each in troubled)
    lines = list(notes)
    tested = [each.backdoor for each in comparison.rows if each.backdoor is not None]
    if tested:
        lines.append(_about(tested[0], comparison))
    if comparison.no_backdoor:
        lines.append(f"no backdoor was planted: {comparison.no_backdoor}")
    return [*lines, _determinism(comparison.determinism)]


def _determinism(cost: Strictness) -> str:
    times = [milliseconds(each / cost.steps) for each in (cost.strict_seconds, cost.free_seconds)]
    return (
        f"determinism: a step takes {cost.ratio:.2f} times as long with deterministic algorithms "
        f"({times[0]}) as without ({times[1]}), medians of {TURNS} times "
        f"{counted(cost.steps, 'step')}"
    )


def _about(found: Verdicts, comparison: Comparison) -> str:
    return (
        f"backdoor: {comparison.queries} queries, level {comparison.level:g}, power "
        f"{found.power:.4f}; the trigger works in {_percent(found.before)} before and in "
        f"{_percent(found.clean)} of models that never saw it; deletion is not believed of the "
        f"model before in {found.rejected_before} of {counted(found.seeds, 'seed')}"
    )


def as_markdown(comparison: Comparison, *, is_wide: bool = False) -> str:
    """The table in Markdown, with a column for the number of requests."""
    shown = all_columns() if is_wide else columns(is_wide=False)
    heads = ["method", "requests", *(each.name for each in shown)]
    lines = [heads, ["---"] * len(heads)]
    for row in comparison.rows:
        lines.append([name_of(row), str(row.requests), *(each.text(row) for each in shown)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def as_csv(comparison: Comparison) -> str:
    """A line for each row, every field a column; those of the backdoor begin with its name."""
    text = io.StringIO()
    names = [each.name for each in fields(Row) if each.name != "backdoor"]
    tested = [f"backdoor_{name}" for name in _TESTED]
    table = csv.DictWriter(text, [*names, *tested], lineterminator="\n")
    table.writeheader()
    for row in comparison.rows:
        facts: dict[str, Any] = {name: getattr(row, name) for name in names}
        if row.backdoor is not None:
            facts |= {f"backdoor_{name}": getattr(row.backdoor, name) for name in _TESTED}
        table.writerow(facts)
    return text.getvalue()


_TESTED = ("before", "after", "clean", "seeds", "rejected_before", "accepted", "power")


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f} %"


def _share(share: float | None) -> str:
    """A share of a retrain, which may be small."""
    if share is None:
        return NONE
    return f"{100 * share:.0f} %" if share >= 1 / _SOME else f"{100 * share:.2g} %"


def _times(factor: float | None) -> str:
    if factor is None:
        return NONE
    return f"{factor:.0f}×" if factor >= _MANY else f"{factor:.1f}×"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    return NONE if value is None else duration(value)


def _verdict(row: Row) -> str:
    found = row.backdoor
    if found is None:
        return NONE
    return f"{_percent(found.after)} {found.accepted}/{found.seeds}"


_COLUMNS: Sequence[Column] = (
    Column(
        "before",
        "accuracy on the test records before",
        lambda row: _percent(row.accuracy_before),
        is_wide=True,
    ),
    Column("test", "accuracy on the test records after", lambda row: _percent(row.accuracy)),
    Column(
        "forgot", "accuracy on the forgotten records", lambda row: _percent(row.accuracy_forgotten)
    ),
    Column(
        "loss",
        "mean loss of the forgotten records",
        lambda row: _number(row.loss_forgotten),
        is_wide=True,
    ),
    Column(
        "fewer",
        "how many times fewer records are trained on than by a retrain for each request",
        lambda row: _times(row.speedup),
    ),
    Column(
        "faster",
        "the same of the time until the model can be used",
        lambda row: _times(row.speedup_seconds),
    ),
    Column("each", "what a request costs, as a share of a retrain", lambda row: _share(row.share)),
    Column(
        "settle",
        "what it takes to make the end exact, once, as a share of a retrain",
        lambda row: _share(row.settle_share),
    ),
    Column("seconds", "of all requests", lambda row: _seconds(row.seconds), is_wide=True),
    Column(
        "training",
        "seconds before the first request",
        lambda row: _seconds(row.training_seconds),
        is_wide=True,
    ),
    Column(
        "disk",
        "what is kept to forget with",
        lambda row: NONE if row.disk_bytes is None else size(row.disk_bytes),
    ),
    Column(
        "models",
        "how many a prediction asks",
        lambda row: NONE if row.models is None else str(row.models),
        is_wide=True,
    ),
    Column(
        "predict",
        "how long a thousand predictions take",
        lambda row: NONE if row.predict_seconds is None else milliseconds(row.predict_seconds),
        is_wide=True,
    ),
    Column(
        "agree",
        "test records that an independent retrain gives the same class; the row of retrain "
        "is what chance alone gives",
        lambda row: _percent(row.agreement),
    ),
    Column(
        "own",
        "the same of the retrain of the same seed",
        lambda row: _percent(row.agreement_own),
        is_wide=True,
    ),
    Column(
        "same bits",
        "seeds in which the model is that retrain, bit for bit",
        lambda row: _percent(row.identical),
        is_wide=True,
    ),
    Column(
        "settled",
        "the same after settling",
        lambda row: _percent(row.identical_settled),
        is_wide=True,
    ),
    Column(
        "shift",
        "distance of the forgotten records' scores from independent retrains', in deviations",
        lambda row: _number(row.shift),
        is_wide=True,
    ),
    Column(
        "backdoor",
        "how often a planted trigger still works, and in how many seeds the test of "
        "deletion believes that it is gone",
        _verdict,
    ),
)


def legend(*, is_wide: bool) -> str:
    """What the columns mean, in one line."""
    shown = all_columns() if is_wide else columns(is_wide=False)
    return "; ".join(f"{each.name}: {each.meaning}" for each in shown)
