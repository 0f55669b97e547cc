import pytest

from obliviate.wording import counted, duration, moment, percent


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (59, "59.0 s"), (90, "1.5 min"), (5400, "1.5 h")]
)
def test_durations_fit_their_size(seconds, words):
    assert duration(seconds) == words


def test_counts():
    assert [counted(number, "block") for number in (0, 1, 2000)] == [
        "0 blocks",
        "1 block",
        "2,000 blocks",
    ]


def test_moments():
    assert moment("2026-01-02T03:04:05+00:00") == "2026-01-02 03:04:05 UTC"
    assert moment(None) == "–"


def test_shares():
    assert percent(0.98765) == "98.77 %"
    assert percent(None) == "not measured"
