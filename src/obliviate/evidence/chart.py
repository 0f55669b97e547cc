"""An erasure, drawn: the residual memory, what was fitted to it, where it stopped and ended.

Replayed blocks stand side by side on the horizontal axis, whatever lies between them: segments are
set apart by a gap that says how many blocks were stitched instead of replayed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from obliviate.methods.exact import Exact
from obliviate.methods.power_law import FIT_MIN_LENGTH, fit_power_law

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from obliviate.ledger.outcome import Ending

ACCENT, INK, FAINT = "#0b6e69", "#22302f", "#c9d4d3"
FIT = "#b4541a"
_SIZE_INCHES, _DOTS_PER_INCH = (8.0, 3.4), 150
_GAP, _REST = 1.4, 2.2  # widths, in blocks, of what was stitched between and after segments
_MOST_TICKS, _DOTS_UP_TO = 12, 80
_BINS, _BEFORE, _AFTER = 12, -0.3, -0.6  # where rows of scores stand below the distribution


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The residual memory of one erasure.

    Attributes:
        segments: The replayed blocks, as (first, last).
        residual_memory: Δ_k relative to ‖V_d‖₁, one for each replayed block.
        affected: Blocks that held erased records, ascending.
        blocks: How many blocks the chain has.
        method: The name of the method.
        functional_memory: Mean gap of the erased records' scores, one for each replayed block; None
            where there is none to show.
        control_memory: The same of the controls; both empty where they were not measured.
    """

    segments: tuple[tuple[int, int], ...]
    residual_memory: tuple[float, ...]
    affected: tuple[int, ...]
    blocks: int
    method: str
    functional_memory: tuple[float | None, ...] = ()
    control_memory: tuple[float | None, ...] = ()

    @property
    def has_function(self) -> bool:
        """Whether there is a functional memory to draw."""
        return any(value is not None for value in self.functional_memory)

    def series(self) -> list[tuple[int, list[float]]]:
        """The stretches that the method judged: (first block, values from there on)."""
        stretches: list[tuple[int, list[float]]] = []
        values = iter(self.residual_memory)
        for first, last in self.segments:
            for block in range(first, last + 1):
                if block == first or block in self.affected:
                    stretches.append((block, []))
                stretches[-1][1].append(next(values))
        return stretches


def picture(curve: Curve, ending: Ending | None = None) -> bytes:
    """A PNG of the curve, 1200 x 510 pixels.

    Below it, each as high again, the functional memory and where the erased records ended, as far
    as there is something to show of them.
    """
    has_ending = ending is not None and bool(ending.expected) and ending.target is not None
    rows = 1 + curve.has_function + has_ending
    width, height = _SIZE_INCHES
    figure = Figure(figsize=(width, rows * height), dpi=_DOTS_PER_INCH, layout="constrained")
    axes, *below = figure.subplots(rows, 1, squeeze=False)[:, 0]
    places = _places(curve)
    if curve.has_function:
        _draw_function(below[0], curve, places)
    if ending is not None and has_ending:
        _draw_ending(below[-1], ending)
    _draw_segments(axes, curve, places)
    _draw_fits(axes, curve, places)
    _draw_stitched(axes, curve, places)
    _dress(axes, curve, places)
    return png(figure)


def png(figure: Figure) -> bytes:
    """A figure as a file; the same bytes for the same picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def dress(axes: Axes, **legend: Any) -> None:
    """Plain axes with a legend, as all pictures have them."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    axes.legend(frameon=False, fontsize=8, **legend)


def _draw_function(axes: Axes, curve: Curve, places: dict[int, float]) -> None:
    for label, memory, colour in (
        ("erased records", curve.functional_memory, ACCENT),
        ("controls", curve.control_memory, FIT),
    ):
        _draw_line(axes, curve, places, memory, colour=colour, label=label)
    axes.axhline(0, color=INK, linewidth=0.9)
    _dress_axes(axes, curve, places)
    axes.set_ylabel("functional memory\n(score before - score replayed)", color=INK, fontsize=9)


def _draw_ending(axes: Axes, ending: Ending) -> None:
    """The scores that are expected, and below them those of the erased records."""
    counts, edges = np.histogram(ending.expected, bins=_BINS)
    expected = "expected of a model that never saw them"
    axes.stairs(counts / counts.max(), edges, fill=True, color=FAINT, label=expected)
    interval = f"target, an interval of {ending.level:.0%}"
    ends = np.array([ending.low, ending.high], dtype=float)
    axes.plot(ends, [0, 0], color=INK, linewidth=3, label=interval)
    _draw_mean(axes, ending.target, 0, INK, label="means")
    before, after = ending.scores
    for place, scores, mean, colour in (
        (_BEFORE, before, ending.before, FIT),
        (_AFTER, after, ending.reached, ACCENT),
    ):
        axes.plot(scores, [place] * len(scores), "o", color=colour, alpha=0.35, markersize=4.5)
        _draw_mean(axes, mean, place, colour)
    axes.set_yticks([_AFTER, _BEFORE, 0.5], ["erased,\nafter", "erased,\nbefore", "expected"])
    axes.set_ylim(_AFTER - 0.2, 1.1)
    axes.set_xlabel("score of a record: the higher, the better the model does on it", color=INK)
    dress(axes, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.14))


def _draw_mean(axes: Axes, mean: float | None, place: float, colour: str, label: str = "") -> None:
    at = np.array([mean], dtype=float)
    axes.plot(at, [place], "D", color=colour, markersize=8, markeredgecolor="white", label=label)


def _draw_line(
    axes: Axes,
    curve: Curve,
    places: dict[int, float],
    memory: Sequence[float | None],
    *,
    colour: str,
    label: str,
) -> None:
    """A line through each segment; what is not known is left out."""
    values = zip(places, memory, strict=True)
    known = {block: value for block, value in values if value is not None}
    for number, (first, last) in enumerate(curve.segments):
        blocks = [block for block in range(first, last + 1) if block in known]
        axes.plot(
            [places[block] for block in blocks],
            [known[block] for block in blocks],
            color=colour,
            marker="o" if len(places) <= _DOTS_UP_TO else "",
            markersize=4.5,
            linewidth=1.6,
            label="" if number else label,
        )


def _places(curve: Curve) -> dict[int, float]:
    """Where on the horizontal axis each replayed block stands."""
    places: dict[int, float] = {}
    at = 0.0
    for first, last in curve.segments:
        for block in range(first, last + 1):
            places[block] = at
            at += 1
        at += _GAP
    return places


def _draw_segments(axes: Axes, curve: Curve, places: dict[int, float]) -> None:
    values = dict(zip(places, curve.residual_memory, strict=True))
    memory, label = curve.residual_memory, "residual memory, measured"
    _draw_line(axes, curve, places, memory, colour=ACCENT, label=label)
    affected = [block for block in curve.affected if block in places]
    axes.plot(
        [places[block] for block in affected],
        [values[block] for block in affected],
        linestyle="none",
        marker="D",
        markersize=8,
        markerfacecolor="white",
        markeredgecolor=ACCENT,
        markeredgewidth=1.6,
        label="block that held erased records" if affected else "",
    )


def _draw_fits(axes: Axes, curve: Curve, places: dict[int, float]) -> None:
    if curve.method == Exact.name:
        return
    label = "fitted power law a·x⁻ʰ + b"
    for first, values in curve.series():
        if len(values) < FIT_MIN_LENGTH:
            continue
        law = fit_power_law(values)
        lags = np.linspace(1, len(values), 20 * len(values))
        axes.plot(
            places[first] + lags - 1,
            [law(lag) for lag in lags],
            color=FIT,
            linestyle=(0, (4, 2)),
            linewidth=1.3,
            label=label,
        )
        label = ""


def _draw_stitched(axes: Axes, curve: Curve, places: dict[int, float]) -> None:
    for (_, last), (following, _) in pairwise(curve.segments):
        _shade(axes, places[last] + 0.4, places[following] - 0.4, following - last - 1)
    end = curve.segments[-1][1]
    axes.axvline(places[end], color=INK, linewidth=0.9, linestyle=":")
    axes.annotate(
        "replay stopped" if end < curve.blocks else "end of the chain",
        (places[end], 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-5, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
        color=INK,
    )
    if end < curve.blocks:
        _shade(axes, places[end] + 0.4, places[end] + _REST, curve.blocks - end)


def _shade(axes: Axes, left: float, right: float, blocks: int) -> None:
    axes.axvspan(left, right, color=FAINT, alpha=0.45, linewidth=0)
    axes.text(
        (left + right) / 2,
        0.5,
        f"{blocks} {'block' if blocks == 1 else 'blocks'} stitched",
        transform=axes.get_xaxis_transform(),
        rotation=90,
        ha="center",
        va="center",
        fontsize=8,
        color=INK,
    )


def _dress(axes: Axes, curve: Curve, places: dict[int, float]) -> None:
    _dress_axes(axes, curve, places)
    axes.set_ylabel(
        "residual memory\n(relative to its first block's update)", color=INK, fontsize=9
    )
    axes.set_ylim(bottom=0, top=1.18 * np.nanmax([*curve.residual_memory, 1e-9]))


def _dress_axes(axes: Axes, curve: Curve, places: dict[int, float]) -> None:
    blocks = list(places)
    step = -(-len(blocks) // _MOST_TICKS)
    shown = blocks[::step] if step > 1 else blocks
    axes.xaxis.set_major_locator(FixedLocator([places[block] for block in shown]))
    axes.set_xticklabels([str(block) for block in shown])
    axes.set_xlabel(f"replayed block (of {curve.blocks})", color=INK)
    end, is_whole = curve.segments[-1][1], curve.segments[-1][1] == curve.blocks
    axes.set_xlim(-0.6, places[end] + (0.6 if is_whole else _REST))
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    dress(axes, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.14))
