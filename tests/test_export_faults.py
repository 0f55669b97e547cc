"""An export that fails, is killed or meets another one leaves a whole model, and is known of."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
import time

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from torch import nn

import obliviate as ob
from obliviate.disk.lock import alone_at
from obliviate.errors import (
    ObliviateError,
    RunDamaged,
    RunUnfinished,
    StorageFull,
)
from tests.export_child import export
from tests.exports import BLOCKS, LINEAR, card_in, of, same
from tests.faults import NUMBERS, Faults, broken_once
from tests.models import images, recipe
from tests.prepared import PROCESSES


@pytest.fixture
def run(tmp_path, recipe_of, data):
    """A run that is trained."""
    with ob.fit(recipe_of(), data, tmp_path / "run", blocks=BLOCKS) as run:
        yield run


def in_a_process(run, place, kill):
    """An export in a process of its own, which is killed as `kill` says."""
    run.close()
    child = PROCESSES.Process(target=export, args=(run.folder, place, kill))
    child.start()
    return child


def test_a_run_that_cannot_be_served_is_not_exported(tmp_path, recipe_of, data):
    folder, events = tmp_path / "run", ob.fit.events(recipe_of(), data, tmp_path / "run", blocks=20)
    while next(events).done < 2:
        pass
    events.close()
    run = ob.load(folder, recipe_of(), data)
    for call in (
        lambda: run.export(tmp_path / "export"),
        lambda: ob.open_model(folder, model=LINEAR),
    ):
        with pytest.raises(RunUnfinished):
            call()
    assert run.exports() == []


def test_a_damaged_run_is_not_exported(tmp_path, run):
    last = run.chain().entries[-1].keyframe.key
    (run.folder / "vault" / last).write_bytes(b"damage")
    for call in (
        lambda: run.export(tmp_path / "export"),
        lambda: ob.open_model(run.folder, model=LINEAR),
    ):
        with pytest.raises(RunDamaged):
            call()
    assert run.exports() == []
    assert not (tmp_path / "export").exists()


def test_an_erasure_while_an_export_waits_is_in_the_export(tmp_path, run, recipe_of, data):
    place, found = tmp_path / "export", []
    with alone_at(place):
        waits = threading.Thread(target=lambda: found.append(other.export(place)))
        with ob.load(run.folder, recipe_of(), data) as other:
            waits.start()
            time.sleep(0.5)
            run.forget(records=[1], method="exact")
    waits.join(30)
    assert found[0].digest == run.digest == card_in(place)["digest"]
    assert of(run.exports()) == [("there", "current")]


def wide() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4096), nn.Linear(4096, 4))


def test_a_full_disk_leaves_what_was_there(tmp_path):
    run = ob.fit(recipe(wide), images(18), tmp_path / "run", blocks=2)
    run.export(tmp_path / "export")
    before = [path.read_bytes() for path in sorted((tmp_path / "export").iterdir())]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, limits[1]))
    try:
        for place in (tmp_path / "export", tmp_path / "other"):
            with pytest.raises(StorageFull) as raised:
                run.export(place)
            assert os.strerror(errno.EFBIG) in raised.value.message
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.read_bytes() for path in sorted((tmp_path / "export").iterdir())] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "run"]
    assert of(run.exports()) == [("there", "current")]


def failed_at(tmp_path, run, monkeypatch, at):
    """An export over an earlier one, one of whose calls to the disk fails; how many there are."""
    place = tmp_path / f"export{at}"
    run.export(place)
    before = card_in(place)["export"]
    faults = Faults(tmp_path, at, NUMBERS[at % len(NUMBERS)])
    with faults.active(monkeypatch):
        try:
            run.export(place)
        except ObliviateError as error:
            assert error.hint, error  # noqa: PT017
    exports = {each.id: each for each in run.exports() if each.place == str(place)}
    card = card_in(place)
    assert same(ob.open_model(place, model=LINEAR), run.model)
    assert card["export"] >= before
    assert exports[card["export"]].state in ("there", "begun")  # never one that nobody knows of
    run.export(place)
    assert [path.name for path in tmp_path.glob(".export*")] == []
    assert [each.state for each in run.exports() if each.place == str(place)][-1] == "there"
    return faults


def test_any_call_to_the_disk_may_fail(tmp_path, run, monkeypatch):
    calls = len(failed_at(tmp_path, run, monkeypatch, 10**6).calls)
    for at in range(0, calls, calls // 8):
        failed_at(tmp_path, run, monkeypatch, at)
    assert run.verify().passed


def test_any_call_to_an_object_store_may_fail(tmp_path, run, monkeypatch):
    names = ("pipe_file", "cat_file", "info", "ls", "rm_file")
    url = f"memory://{tmp_path.name}/faults"
    calls = at = 0
    while at <= calls:
        run.export(url)
        with monkeypatch.context() as patch:
            made = broken_once(patch, MemoryFileSystem, names, at, errno.EACCES)
            try:
                run.export(url)
            except ObliviateError as error:
                assert error.hint, error  # noqa: PT017
        calls, at = len(made), at + 3
        run.export(url)
        assert same(ob.open_model(url, model=LINEAR), run.model)


KILLS = [
    ("commit", 0, "after"),
    ("fsync", 3, "before"),
    ("rename", 0, "after"),
    ("commit", 1, "before"),
]
"""Moments of an export over an earlier one: begun, flushed, moved away, and all but told."""


def test_killed_in_the_middle_it_is_whole_or_not_there(tmp_path):
    run, place = ob.fit(recipe(), images(18), tmp_path / "run", blocks=2), tmp_path / "export"
    run.export(place)
    for kill in KILLS:
        child = in_a_process(run, place, kill)
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        outside = {each.id for each in run.exports() if each.state in ("begun", "there")}
        if (place / "obliviate.json").exists():
            assert same(ob.open_model(place, model=recipe().model), run.model)
            assert card_in(place)["export"] in outside
    run.export(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "run"]
    assert [each.state for each in run.exports()].count("there") == 1
    assert {each.state for each in run.exports()} <= {"there", "replaced"}


def test_what_a_killed_export_left_goes_when_it_is_withdrawn(tmp_path):
    run, place = ob.fit(recipe(), images(18), tmp_path / "run", blocks=2), tmp_path / "export"
    in_a_process(run, place, ("fsync", 0, "before")).join(60)
    assert of(run.exports()) == [("begun", "current")]
    run.forget(records=[1], method="exact")
    assert run.exports()[0].holds_erased
    run.withdraw(place)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert of(run.exports()) == [("withdrawn", "stale")]


def test_two_at_once_leave_one_whole_export(tmp_path):
    run, place = ob.fit(recipe(), images(18), tmp_path / "run", blocks=2), tmp_path / "export"
    children = [in_a_process(run, place, None) for _ in range(2)]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert sorted(each.state for each in run.exports()) == ["replaced", "there"]
    there = next(each for each in run.exports() if each.state == "there")
    assert card_in(place)["export"] == there.id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "run"]
