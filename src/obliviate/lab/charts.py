"""Pictures of what the laboratory found: how the trace fades, and what replaying more buys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from obliviate.evidence.chart import ACCENT, FAINT, FIT, INK, dress, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from obliviate.lab.results import Finding, Lab

_COLOURS = (ACCENT, FIT, "#5b3a8c", "#8a7a12", "#a02c4a", "#2f6db3")
_SIZE_INCHES, _DOTS_PER_INCH = (8.0, 3.8), 150


def gap_picture(answer: Lab) -> bytes:
    """A PNG of the gap between original and exact replay against the lag, with the fitted law."""
    figure, axes = _canvas()
    fade = answer.fade
    lags, gap, spread = (np.array(each) for each in (fade.lags, fade.erased, fade.deviation))
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.fill_between(lags, gap - 2 * spread, gap + 2 * spread, color=ACCENT, alpha=0.15)
    axes.plot(lags, gap, "o-", color=ACCENT, markersize=4, label="erased records")
    axes.plot(lags, fade.controls, ":", color=INK, label="retained records of the same blocks")
    if fade.a is not None and fade.h is not None:
        axes.plot(
            lags[lags > 1],
            fade.a * lags[lags > 1] ** -fade.h,
            "--",
            color=FIT,
            label=f"fitted from lag 2 on: {fade.a:.2f}·lag^({-fade.h:.2f})",
        )
    _count_in_logs(axes)
    axes.set_xlabel("lag: blocks since the last one that held the records", color=INK)
    axes.set_ylabel("gap in score,\noriginal - exact replay", color=INK)
    return _finished(figure, axes)


def shift_picture(answer: Lab) -> bytes:
    """A PNG of the shift against the blocks replayed, for each method, over the floor."""
    figure, axes = _canvas()
    floor, original = answer.floor.shift, answer.findings[0]
    axes.axhspan(floor.low, floor.high, color=FAINT, alpha=0.6, label="chance: retrained models")
    axes.axhline(
        original.shift, color=INK, linewidth=1, linestyle=":", label="nothing done: the original"
    )
    for number, (name, rows) in enumerate(_families(answer).items()):
        axes.plot(
            [row.blocks_replayed for row in rows],
            [row.shift for row in rows],
            "o-",
            color=_COLOURS[number % len(_COLOURS)],
            markersize=5,
            linewidth=1.2,
            label=name,
        )
    _count_in_logs(axes)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"blocks replayed, median over the seeds (of {answer.blocks})", color=INK)
    axes.set_ylabel("shift of the erased records\n(deviations; less is better)", color=INK)
    return _finished(figure, axes)


def _families(answer: Lab) -> dict[str, list[Finding]]:
    """The rows of each method, whatever its options, by the blocks that they replayed."""
    families: dict[str, list[Finding]] = {}
    for row in answer.findings[1:]:
        families.setdefault(row.method.partition(":")[0], []).append(row)
    for rows in families.values():
        rows.sort(key=lambda row: row.blocks_replayed)
    return families


def _count_in_logs(axes: Axes) -> None:
    """A logarithmic axis of whole numbers of blocks."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _canvas() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
    return figure, figure.add_subplot()


def _finished(figure: Figure, axes: Axes) -> bytes:
    dress(axes)
    return png(figure)
