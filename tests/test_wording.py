import pytest

from obliviate.text import counted, duration, milliseconds, moment, percent, size


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59, "59.0 s"), (90, "1.5 min"), (5400, "1.5 h"), (2.5 * 86400, "2.5 days")],
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


def test_sizes_fit_their_number():
    sizes = {
        0: "0 B",
        999: "999 B",
        1000: "1 kB",
        3.721e8: "372.1 MB",
        4e12: "4 TB",
        None: "not known",
    }
    assert [size(each) for each in sizes] == [*sizes.values()]


def test_short_times_are_told_apart():
    assert [milliseconds(each) for each in (0, 0.01234, 0.1, 90)] == [
        "0 ms",
        "12.3 ms",
        "100 ms",
        "1.5 min",
    ]
