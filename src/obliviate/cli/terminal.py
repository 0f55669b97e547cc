"""The terminal: what tables are printed on, and the residual memory as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from obliviate.events import Event, detail, finish
from obliviate.text import printable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from rich.console import ConsoleOptions, RenderableType

Result = TypeVar("Result")
BLOCKS, ASCII = " ▁▂▃▄▅▆▇█", " .:#"
CHART_HEIGHT, WIDEST_COLUMN = 6, 3
WIDTH_WITHOUT_TERMINAL = 120
_LABEL_WIDTH = 9


class Screen(Console):
    """A console that shows what the values in a text would do to a terminal, and does not do it."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As `Console` renders it; characters that a terminal obeys come as escapes."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def printing() -> Console:
    """The console on standard output; wide enough for our tables where it is no terminal."""
    console = Screen(highlight=False)
    return console if console.is_terminal else Screen(highlight=False, width=_width(console))


def _width(console: Console) -> int:
    return max(console.width, WIDTH_WITHOUT_TERMINAL)


def chart(
    values: Sequence[float], *, width: int, height: int = CHART_HEIGHT, glyphs: str = BLOCKS
) -> list[str]:
    """Values as columns of block characters, scaled to the largest.

    Args:
        values: At least 0 each.
        width: How many characters there are; where there are more values, neighbours share a column
            and the largest of them is drawn.
        height: How many lines.
        glyphs: Fillings of one character, from empty to full.

    Returns:
        The lines, the highest first.
    """
    if not values:
        return [""] * height
    columns = [max(some) for some in np.array_split(np.asarray(values), min(len(values), width))]
    full = len(glyphs) - 1
    top = max(columns) or 1.0
    levels = [int(np.ceil(value / top * height * full)) for value in columns]
    repeat = max(1, min(WIDEST_COLUMN, width // len(columns)))
    return [
        "".join(glyphs[min(full, max(0, level - row * full))] * repeat for level in levels)
        for row in reversed(range(height))
    ]


def watch_replay(events: Generator[Event, None, Result], console: Console | None = None) -> Result:
    """Run to the end and return the result; on a terminal, draw the curve as it grows."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        return finish(events)
    memory: list[float] = []
    with Live(console=console, refresh_per_second=8) as live:
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            if event.residual_memory is not None:
                memory.append(event.residual_memory)
            live.update(_drawing(event, memory, console))


def _drawing(event: Event, memory: Sequence[float], console: Console) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    line.add_row(
        Text(event.task, style="bold"),
        ProgressBar(total=event.total, completed=event.done, width=30),
        Text(f"{event.done:.0f}/{event.total}"),
        Text(detail(event)),
    )
    if not memory:
        return line
    glyphs = ASCII if console.options.ascii_only else BLOCKS
    rows = chart(memory, width=max(10, console.width - _LABEL_WIDTH - 3), glyphs=glyphs)
    labels = [f"{max(memory):.3f}", *[""] * (len(rows) - 2), "0"]
    drawn = [
        Text.assemble(f"{label:>{_LABEL_WIDTH}} ", (row, "cyan"))
        for label, row in zip(labels, rows, strict=True)
    ]
    return Group(line, *drawn, Text(" " * _LABEL_WIDTH + " residual memory of each replayed block"))
