"""Pictures of a comparison: what speed costs in accuracy, and what a stream of requests costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from obliviate.evidence.chart import ACCENT, FAINT, FIT, INK, dress, png
from obliviate.lab.results import ORIGINAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from obliviate.lab.bench.comparison import Comparison, Row

_COLOURS = (ACCENT, FIT, "#5b3a8c", "#8a7a12", "#a02c4a", "#2f6db3")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_SIZE_INCHES, _DOTS_PER_INCH = (8.0, 4.2), 150


def accuracy_picture(comparison: Comparison) -> bytes:
    """A PNG of the accuracy after the last request against the speedup in records.

    Of what is no classification, the loss of the forgotten records stands for it.
    """
    figure, axes = _canvas()
    last = max(comparison.requests)
    rows = [each for each in comparison.rows if each.requests == last]
    is_classified = any(each.accuracy is not None for each in rows)
    for number, row in enumerate(_methods(rows)):
        worth = _worth(row, is_classified=is_classified)
        if row.speedup and worth is not None:
            mark = _mark(number)
            axes.plot([row.speedup], [worth], linestyle="none", label=row.method, **mark)
    before = _worth(comparison.of(ORIGINAL), is_classified=is_classified)
    if before is not None:
        label = "nothing done: the original"
        axes.axhline(before, color=INK, linewidth=1, linestyle=":", label=label)
    _count_in_logs(axes, "x")
    axes.set_xlabel(
        f"times fewer records trained on than by retraining, {last} requests", color=INK
    )
    axes.set_ylabel(
        "accuracy on the test records (%)" if is_classified else "loss of the forgotten records",
        color=INK,
    )
    return _finished(figure, axes)


def _worth(row: Row, *, is_classified: bool) -> float | None:
    if not is_classified:
        return row.loss_forgotten
    return None if row.accuracy is None else 100 * row.accuracy


def cost_picture(comparison: Comparison) -> bytes:
    """A PNG of what streams of requests cost in retrains, with one settling at the end dashed."""
    figure, axes = _canvas()
    for number, row in enumerate(_methods(comparison.rows[: _rows_each(comparison)])):
        rows = [each for each in comparison.rows if each.method == row.method and each.share]
        counts = [each.requests for each in rows]
        costs = [each.requests * (each.share or 0) for each in rows]
        axes.plot(counts, costs, linewidth=1.4, label=row.method, **_mark(number))
        settled = [cost + (each.settle_share or 0) for cost, each in zip(costs, rows, strict=True)]
        if settled != costs:
            colour = _mark(number)["color"]
            axes.plot(counts, settled, linestyle=(0, (4, 2)), linewidth=1.2, color=colour)
    for side in ("x", "y"):
        _count_in_logs(axes, side)
    axes.axhline(1, color=FAINT, linewidth=0.8)
    axes.set_xlabel("requests, one after the other", color=INK)
    axes.set_ylabel("records trained on, in retrains\n(dashed: with settling)", color=INK)
    return _finished(figure, axes)


def _rows_each(comparison: Comparison) -> int:
    return len(comparison.rows) // len(comparison.requests)


def _methods(rows: tuple[Row, ...] | list[Row]) -> list[Row]:
    return [each for each in rows if each.method != ORIGINAL]


def _mark(number: int) -> dict[str, Any]:
    colour = INK if number == 0 else _COLOURS[(number - 1) % len(_COLOURS)]
    return {"color": colour, "marker": _MARKS[number % len(_MARKS)], "markersize": 7}


def _count_in_logs(axes: Axes, side: str) -> None:
    """A logarithmic axis of plain numbers."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    (axes.set_xscale if side == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _canvas() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
    return figure, figure.add_subplot()


def _finished(figure: Figure, axes: Axes) -> bytes:
    named = [each for each in axes.lines if not str(each.get_label()).startswith("_")]
    dress(axes, loc="center left", bbox_to_anchor=(1.01, 0.5), handles=named)
    return png(figure)
