"""What is drawn on terminals, and that nothing is drawn elsewhere."""

import io
import re

import pytest
from rich.console import Console

from obliviate.cli.terminal import ASCII, chart, watch_replay
from obliviate.events import Event


def replay(values):
    for block, value in enumerate(values, start=1):
        yield Event(task="replay", done=block - 0.5, total=len(values), block=block)
        yield Event(
            task="replay", done=block, total=len(values), block=block, residual_memory=value
        )
    return "the result"


def test_the_curve_is_drawn_on_a_terminal():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    assert watch_replay(replay([1.0, 0.5, 0.25]), console) == "the result"
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "residual memory of each replayed block" in shown
    assert "1.000" in shown
    assert "█" in shown
    assert "3/3" in shown


def test_nothing_is_drawn_elsewhere():
    screen = io.StringIO()
    assert watch_replay(replay([1.0]), Console(file=screen)) == "the result"
    assert screen.getvalue() == ""


def test_columns_are_scaled_to_the_largest():
    assert chart([2.0, 1.0, 0.0], width=3, height=2) == ["█  ", "██ "]


def test_few_values_get_wide_columns():
    assert chart([1.0, 1.0], width=6, height=1) == ["██████"]


def test_many_values_share_columns_and_the_largest_shows():
    assert chart([0.0, 1.0, 0.0, 0.0], width=2, height=1) == ["█ "]


def test_plain_characters_where_there_are_no_others():
    assert chart([3.0, 1.0], width=2, height=1, glyphs=ASCII) == ["#."]


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0]])
def test_nothing_to_see_is_drawn_as_nothing(values):
    assert "".join(chart(values, width=9, height=2)).strip() == ""
