"""Progress: events go by, and a bar shows them to people at a terminal."""

from __future__ import annotations

import io
import time
from inspect import signature

import pytest
from rich.console import Console

import obliviate as ob
from obliviate.events import DRAWN_AFTER_SECONDS, Event, detail, finish, watch, watched

LONG_ENOUGH = DRAWN_AFTER_SECONDS + 0.15


def event(done: float, **facts) -> Event:
    return Event(task="replay", done=done, total=4, block=7, **facts)


def work(*pauses: float, result="the result", error=None):
    """Events after pauses."""
    for at, pause in enumerate(pauses):
        time.sleep(pause)
        yield event(at + 1, loss=0.5)
    if error:
        raise error
    return result


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)


@pytest.mark.parametrize("consume", [finish, watch])
def test_the_result_comes_back(consume):
    assert consume(work(0, 0, 0)) == "the result"
    assert consume(work()) == "the result"


@pytest.mark.parametrize("consume", [finish, watch, lambda events: watch(events, terminal())])
def test_an_error_comes_through(consume):
    with pytest.raises(ValueError, match="broken"):
        consume(work(0, 0, error=ValueError("broken")))


def test_nothing_is_printed_where_nobody_looks(capfd):
    """Logs and pipes get no bars."""
    console = Console(file=io.StringIO(), force_terminal=False)
    assert watch(work(LONG_ENOUGH, 0), console) == "the result"
    assert console.file.getvalue() == ""
    assert watch(work(0, 0)) == "the result"
    assert capfd.readouterr() == ("", "")


def test_a_short_wait_draws_nothing():
    console = terminal()
    assert watch(work(0, 0, 0), console) == "the result"
    assert console.file.getvalue() == ""


def test_a_long_wait_draws_a_bar():
    console = terminal()
    assert watch(work(0, LONG_ENOUGH, 0.2), console) == "the result"
    drawn = console.file.getvalue()
    for shown in ("replay", "3/4", "block 7", "loss 0.5000"):
        assert shown in drawn


def test_a_long_wait_before_the_first_event_draws_a_bar_too():
    """A large model may take a while before its first block is under way."""
    console = terminal()
    assert watch(work(LONG_ENOUGH, 0.2), console) == "the result"
    assert "1/4" in console.file.getvalue()


def test_the_cursor_is_shown_again_after_an_error():
    console = terminal()
    with pytest.raises(ValueError, match="broken"):
        watch(work(0, LONG_ENOUGH, error=ValueError("broken")), console)
    drawn = console.file.getvalue()
    assert drawn.rfind("\x1b[?25h") > drawn.rfind("\x1b[?25l") >= 0


class Counter:
    """It counts from a start."""

    def __init__(self, start):
        self.start = start

    @watched
    def count(self, steps, *, by=1):
        """Count."""
        for done in range(steps):
            yield event(done)
        return self.start + steps * by


def test_what_is_watched_returns_its_result_and_yields_its_events_when_asked():
    counter = Counter(10)
    assert counter.count(3, by=2) == 16
    assert [each.done for each in counter.count.events(3)] == [0, 1, 2]
    assert Counter.count(counter, 3) == 13
    assert Counter.count.__doc__ == counter.count.__doc__ == "Count."
    assert [*signature(counter.count).parameters] == ["steps", "by"]


def test_an_event_in_words():
    assert detail(event(1)) == "block 7"
    assert (
        detail(event(1, loss=0.25, residual_memory=0.125))
        == "block 7, loss 0.2500, residual memory 0.1250"
    )


def test_progress_of_a_run_goes_from_nothing_to_all(tmp_path, recipe_of, data):
    fitting = ob.fit.events(recipe_of(), data, tmp_path / "run", blocks=4)
    seen = []
    try:
        while True:
            seen.append(next(fitting))
    except StopIteration as stop:
        run = stop.value
    assert [each.done for each in seen] == [1, 2, 3, 4]
    assert {each.total for each in seen} == {4}
    assert {each.task for each in seen} == {"fit"}
    assert all(each.loss > 0 for each in seen)
    *replaying, comparing = run.forget.events(records=[0], method="exact")
    assert comparing.task == "compare"
    assert replaying[-1].done == replaying[-1].total
    assert all(each.residual_memory >= 0 for each in replaying)
