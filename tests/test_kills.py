"""Killed at any instant, the next call finishes, with the same digests."""

import os
import random
import signal
import tempfile
import time
from functools import cache
from pathlib import Path

import pytest

import obliviate as ob
from obliviate.ledger.facts import ERASED
from tests.models import BLOCKS, images, recipe, records_in
from tests.prepared import PROCESSES

CHAINS = {
    "one pass": {},
    "epochs with gaps": {"epochs": 3, "repeats": 1},
}


def story(folder, kind="one pass"):
    """Fit, forget one person fast and two exactly, forget two more fast, settle."""
    made = recipe("dropout-cnn", "momentum-carried", "cosine", **CHAINS[kind])
    keep = 1 if made.epochs > 1 else None
    run = ob.fit(made, images(), folder, blocks=BLOCKS, keep=keep)
    last = BLOCKS * (made.epochs - 1)
    places = (last + 2, last + 4, last + 5, last + 1, last + 3)
    first, second, third, fourth, fifth = records_in(run, *places)
    fast = ob.DeepObliviate(epsilon=9, back=keep)
    other = fast if keep else ob.Calibrated(tolerance=100)
    steps = [
        lambda: run.forget(records=[first, second], method=fast),
        lambda: run.forget(records=[third], method="exact"),
        lambda: run.forget(records=[fourth], method=fast),
        lambda: run.forget(records=[fifth], method=other),
        run.settle,
    ]
    done = [facts for facts in run.ledger.erasures.all() if facts.state in ERASED]
    for step in steps[len(done) :]:
        step()
    return run


def evidence(run):
    """What must not depend on kills: every digest on the way, and what is on the disk."""
    erasures = [
        (facts.kind, facts.state, facts.records, facts.outcome.digest)
        for facts in run.ledger.erasures.all()
    ]
    entries = [(entry.block, entry.guarantee, entry.digest) for entry in run.chain().entries]
    assert set(run.vault) == run.ledger.objects.keys("live")
    assert not run.ledger.objects.keys("condemned")
    return run.digest, erasures, entries


@pytest.fixture(params=CHAINS)
def undisturbed(request):
    """A kind of chain, what becomes of its story, and how long that takes."""
    return undisturbed_story(request.param)


@cache
def undisturbed_story(kind):
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = story(Path(folder, "run"), kind)
        return kind, evidence(run), time.perf_counter() - started


def live(folder, kind, kill):
    """One life of a process that is to be killed: the whole story, from its first call on."""
    from tests.kill_child import arm

    arm(kill)
    story(folder, kind)
    os._exit(0)


def lives(folder, kind, kills):
    """Process after process, each killed in its own way; returns how many were killed in time."""
    killed = 0
    for kill in kills:
        child = PROCESSES.Process(target=live, args=(folder, kind, kill))
        child.start()
        if isinstance(kill, float):
            child.join(kill)
            if child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
        child.join(60)
        assert child.exitcode in (0, -signal.SIGKILL), f"{kill}: exit {child.exitcode}"
        killed += child.exitcode == -signal.SIGKILL
    return killed


def check(folder, undisturbed, kills):
    kind, expected, _ = undisturbed
    killed = lives(folder, kind, kills)
    assert evidence(story(folder, kind)) == expected
    return killed


def writes(call, total, every):
    """The moments around every so many-th call."""
    return [
        (call, number, side) for number in range(0, total, every) for side in ("before", "after")
    ]


def test_a_few_random_kills(tmp_path, undisturbed):
    rng = random.Random(1)
    check(tmp_path / "run", undisturbed, [rng.uniform(0.05, 0.6) for _ in range(5)])


@pytest.mark.parametrize(
    ("undisturbed", "call"),
    [
        ("one pass", "rename"),
        ("one pass", "unlink"),
        ("epochs with gaps", "fsync"),
        ("epochs with gaps", "commit"),
    ],
    indirect=["undisturbed"],
)
def test_kills_around_some_writes(tmp_path, undisturbed, call):
    kills = writes(call, total=24, every=11)
    assert check(tmp_path / "run", undisturbed, kills) > 0


@pytest.mark.slow
def test_fifty_random_kills(tmp_path, undisturbed):
    rng = random.Random(2)
    killed, stories = 0, 0
    while killed < 50:
        delays = [rng.uniform(0.0, 0.9 * undisturbed[2]) for _ in range(6)]
        killed += check(tmp_path / str(stories), undisturbed, delays)
        stories += 1
        assert stories < 120, f"only {killed} processes were killed before they were done"


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fsync", "rename", "unlink", "commit"])
def test_kills_around_every_write(tmp_path, undisturbed, call):
    for kill in writes(call, total=60, every=1):
        check(tmp_path / f"{kill[1]}-{kill[2]}", undisturbed, [kill])
