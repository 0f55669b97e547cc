"""Progress: yielded as events, drawn by whoever wants to see it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Concatenate, Generic, ParamSpec, TypeAlias, TypeVar, overload

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from obliviate.text import measured

Result = TypeVar("Result")
Given = ParamSpec("Given")
Rest = ParamSpec("Rest")
Owner = TypeVar("Owner")
DRAWN_AFTER_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Event:
    """How far something has come.

    Attributes:
        task: What is going on, such as "fit" or "replay".
        done: Blocks done so far, a part of a block counting as a part.
        total: Blocks to do at most.
        block: The block at work, where there is one.
        loss: The mean loss of the last finished block.
        evaluation: What the user measured of it.
        residual_memory: The last value of the residual memory, where one is measured.
        functional_memory: The same of the functional one.
    """

    task: str
    done: float
    total: int
    block: int | None = None
    loss: float | None = None
    evaluation: Mapping[str, float] | None = None
    residual_memory: float | None = None
    functional_memory: float | None = None


Events: TypeAlias = Generator[Event, None, Result]
"""Progress as it comes, and the result at its end."""


def finish(events: Events[Result]) -> Result:
    """Run to the end in silence and return the result."""
    while True:
        try:
            next(events)
        except StopIteration as stop:
            result: Result = stop.value
            return result


def watch(events: Events[Result], console: Console | None = None) -> Result:
    """Run to the end and return the result; on a terminal, draw a bar after the first second."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        return finish(events)
    started, bar = time.monotonic(), _bar(console)
    task = bar.add_task("", total=None, detail="")
    try:
        while True:
            event = next(events)
            bar.update(
                task,
                description=event.task,
                completed=event.done,
                total=event.total,
                detail=detail(event),
            )
            if not bar.live.is_started and time.monotonic() - started > DRAWN_AFTER_SECONDS:
                bar.start()
    except StopIteration as stop:
        result: Result = stop.value
        return result
    finally:
        bar.stop()


class watched(Generic[Given, Result]):
    """A function or a method whose progress is drawn while it runs; `.events(...)` yields it.

    It is written as what yields its progress: called, it runs to the end, as `watch` does, and
    returns the result.
    """

    def __init__(self, events: Callable[Given, Events[Result]]) -> None:
        """Take what yields the progress."""
        self.events = events
        functools.update_wrapper(self, events)

    def __call__(self, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        """Run to the end and return the result."""
        return watch(self.events(*args, **kwargs))

    @overload
    def __get__(self, owner: None, kind: type) -> watched[Given, Result]: ...

    @overload
    def __get__(
        self: watched[Concatenate[Owner, Rest], Result], owner: Owner, kind: type[Owner]
    ) -> watched[Rest, Result]: ...

    def __get__(self, owner: object, kind: type) -> object:
        """As a method of an object, as functions are."""
        return self if owner is None else watched(MethodType(self.events, owner))


def detail(event: Event) -> str:
    """The event's block, loss and residual memory in a few words."""
    words = [] if event.block is None else [f"block {event.block}"]
    if event.loss is not None:
        words.append(f"loss {event.loss:.4f}")
    if event.evaluation:
        words.append(measured(event.evaluation))
    if event.residual_memory is not None:
        words.append(f"residual memory {event.residual_memory:.4f}")
    if event.functional_memory is not None:
        words.append(f"functional memory {event.functional_memory:.4f}")
    return ", ".join(words)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        transient=True,
    )
