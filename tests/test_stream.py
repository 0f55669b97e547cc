"""A stream of requests, by every method, settled and reloaded on the way, and killed."""

import os
import random
import signal

import pytest

from tests.prepared import PROCESSES
from tests.stream import PEOPLE, never_asked, serve


def check(run, folder, requests):
    """That nothing was lost, nothing done twice, and the model is what it should be."""
    assert run.guarantee == "exact"
    assert run.digest == never_asked(folder / "never", requests).digest
    found = run.ledger.requests.all()
    assert [(facts.id, facts.state) for facts in found] == [
        (number, "settled") for number in range(1, requests + 1)
    ]
    erased = [run.ledger.erasures.records_of(facts.id) for facts in run.ledger.erasures.all()]
    records = [int(record) for some in erased for record in some]
    assert len(records) == len(set(records)) == sum(facts.records for facts in found)
    assert run.ledger.faults() == []
    assert set(run.vault) == run.ledger.objects.keys("live")
    assert not run.ledger.objects.keys("condemned")


def test_a_stream_of_requests(tmp_path):
    check(serve(tmp_path / "run", until=60), tmp_path, 60)


@pytest.mark.slow
def test_a_stream_of_two_hundred_requests(tmp_path):
    check(serve(tmp_path / "run"), tmp_path, PEOPLE)


def live(folder, kill, until):
    """One life of a process that serves the stream until it is killed."""
    from tests.kill_child import arm

    arm(kill)
    serve(folder, until)
    os._exit(0)


def serve_through(folder, kills, until):
    """Serve the stream in process after process; return how many were killed before its end."""
    killed = 0
    for kill in kills:
        child = PROCESSES.Process(target=live, args=(folder, kill, until))
        child.start()
        child.join(300)
        assert child.exitcode in (0, -signal.SIGKILL), f"{kill}: exit {child.exitcode}"
        killed += child.exitcode == -signal.SIGKILL
    return killed


def random_kills(seed, count, most):
    """Moments around commits, fsyncs, renames and unlinks, not far from the start."""
    rng = random.Random(seed)
    for _ in range(count):
        call = rng.choice(["commit", "commit", "fsync", "rename", "unlink"])
        yield call, rng.randint(0, most), rng.choice(["before", "after"])


def test_a_stream_that_is_killed_now_and_then(tmp_path):
    killed = serve_through(tmp_path / "run", random_kills(1, 6, 40), 12)
    assert killed > 2
    check(serve(tmp_path / "run", until=12), tmp_path, 12)


@pytest.mark.slow
def test_two_hundred_kills_spread_over_the_stream(tmp_path):
    folder, killed = tmp_path / "run", 0
    kills = random_kills(2, 600, 30)
    # each life goes on a little further: the stream is let grow with the kills
    while killed < PEOPLE:
        killed += serve_through(folder, [next(kills)], until=killed + 1)
    check(serve(folder), tmp_path, PEOPLE)
