"""Blocks are stored in their order, and committed in groups that are on the disk."""

import threading
import time
from dataclasses import dataclass

import pytest
import torch

import obliviate as ob
from obliviate.chain import storing
from obliviate.chain.storing import Storing
from obliviate.errors import StorageFull
from obliviate.states.update import LARGE_BYTES

SMALL = {"weight": torch.zeros(3)}


class Disk:
    """Writes down what is flushed and committed, in order; one commit may fail."""

    def __init__(self, failing=-1):
        self.calls, self.commits, self.failing = [], [], failing

    def flush(self):
        self.calls.append("flush")

    def commit(self, entries):
        self.calls.append("commit")
        if len(self.commits) == self.failing:
            self.failing = -1
            raise StorageFull("no room", hint="make some")
        self.commits.append(list(entries))

    @property
    def committed(self):
        return [entry for group in self.commits for entry in group]


@pytest.fixture(params=["a core to spare", "every core busy"])
def is_between(request):
    """Whether blocks are stored before the next one trains, or in a thread of their own."""
    return lambda _state: request.param == "every core busy"


@pytest.fixture(params=[0.0, 60.0], ids=["each by itself", "all together"])
def seconds(request, monkeypatch):
    monkeypatch.setattr(storing, "GROUP_SECONDS", request.param)
    monkeypatch.setattr(storing, "SHARE", 0)
    return request.param


def fill(disk, is_between, calls, error=None):
    """Store what some calls give, and fail then."""
    with Storing(disk, disk.commit, is_between=is_between) as store:
        futures = [store.put(SMALL, call) for call in calls]
        if error is not None:
            raise error
    return futures


def giving(*numbers):
    return [lambda number=number: number for number in numbers]


def broken():
    raise StorageFull("no room", hint="make some")


def test_all_are_committed_in_their_order_and_flushed_before(is_between, seconds):
    disk = Disk()
    futures = fill(disk, is_between, giving(*range(20)))
    assert [future.result() for future in futures] == disk.committed == list(range(20))
    assert disk.calls == ["flush", "commit"] * len(disk.commits)
    assert (len(disk.commits) == 1) == (seconds > 0)


def test_what_was_stored_before_a_failure_is_committed_and_nothing_behind_it(is_between, seconds):
    disk = Disk()
    with pytest.raises(StorageFull, match="no room"):
        fill(disk, is_between, [*giving(0, 1, 2), broken, *giving(4, 5)])
    assert disk.committed == [0, 1, 2]


def test_nothing_is_committed_behind_a_commit_that_failed(is_between, monkeypatch):
    monkeypatch.setattr(storing, "GROUP_SECONDS", 0.0)
    monkeypatch.setattr(storing, "SHARE", 0)
    disk = Disk(failing=2)
    slowly = [lambda number=number: time.sleep(0.002) or number for number in range(20)]
    with pytest.raises(StorageFull):
        fill(disk, is_between, slowly)
    assert disk.committed == list(range(len(disk.committed)))
    assert len(disk.commits) == 2


def test_an_error_of_the_training_is_not_hidden_by_one_of_the_disk(is_between):
    with pytest.raises(ValueError, match="diverged"):
        fill(disk := Disk(failing=0), is_between, giving(0), ValueError("diverged"))
    assert disk.committed == []


def test_training_that_fails_keeps_the_blocks_before(is_between):
    with pytest.raises(ValueError, match="diverged"):
        fill(disk := Disk(), is_between, giving(0, 1), ValueError("diverged"))
    assert disk.committed == [0, 1]


def test_of_large_states_one_is_on_its_way_at_a_time():
    """Whatever storing takes, training waits rather than fill the memory."""
    large = {"weight": torch.empty(LARGE_BYTES + 1, dtype=torch.uint8)}
    disk, is_free, running, most = Disk(), threading.Event(), [], []

    def slow():
        running.append(1)
        most.append(len(running))
        is_free.wait(10)
        running.pop()
        return len(most)

    with Storing(disk, disk.commit, is_between=lambda _state: False) as store:
        first = store.put(large, slow)
        assert not first.done()
        timer = threading.Timer(0.1, is_free.set)
        timer.start()
        store.wait()
        assert first.done()
        store.put(large, slow)
        store.put(large, slow)
    assert most == [1, 1, 1]
    assert disk.committed == [1, 2, 3]


@dataclass(frozen=True)
class Row:
    """What is committed of a block."""

    block: int
    optimizer: str | None = None


@pytest.mark.parametrize("size_bytes", [3, LARGE_BYTES + 1], ids=["small", "large"])
def test_moments_are_part_of_the_entry(is_between, size_bytes):
    state, disk = {"weight": torch.empty(size_bytes, dtype=torch.uint8)}, Disk()
    with Storing(disk, disk.commit, is_between=is_between) as store:
        store.put(state, lambda: Row(1), lambda: "moments")
        store.put(state, lambda: Row(2))
    assert disk.committed == [Row(1, "moments"), Row(2)]


def test_of_large_states_moments_are_stored_before_training_goes_on():
    """Beside the update, which may take longer than the next block."""
    large = {"weight": torch.empty(LARGE_BYTES + 1, dtype=torch.uint8)}
    disk, is_free, order = Disk(), threading.Event(), []
    with Storing(disk, disk.commit, is_between=lambda _state: False) as store:
        done = store.put(
            large, lambda: is_free.wait(10) and Row(1), lambda: order.append("moments")
        )
        assert order == ["moments"]
        assert not done.done()
        is_free.set()


def test_what_storing_moments_raises_is_raised_by_the_next_call():
    large = {"weight": torch.empty(LARGE_BYTES + 1, dtype=torch.uint8)}
    disk = Disk()
    store = Storing(disk, disk.commit, is_between=lambda _state: False)
    store.put(large, lambda: Row(1))
    store.put(large, lambda: Row(2), broken)
    with pytest.raises(StorageFull, match="no room"):
        store.wait()
    with pytest.raises(StorageFull, match="no room"), store:
        pass
    assert disk.committed == [Row(1)]


def test_it_is_late_where_training_had_to_wait():
    large = {"weight": torch.empty(LARGE_BYTES + 1, dtype=torch.uint8)}
    disk, is_free = Disk(), threading.Event()
    with Storing(disk, disk.commit, is_between=lambda _state: False) as store:
        store.put(large, lambda: 1).result()
        store.wait()
        assert not store.is_late
        store.put(large, lambda: is_free.wait(10))
        threading.Timer(0.05, is_free.set).start()
        store.wait()
        assert store.is_late


@pytest.mark.parametrize("vault", [None, "memory://storing/vault"], ids=["folder", "bucket"])
def test_with_every_core_busy_training_waits_for_a_folder_and_for_no_bucket(
    tmp_path, recipe_of, data, vault
):
    chain = ob.fit(recipe_of(), data, tmp_path / "run", blocks=4, vault=vault).chain()
    is_free = threading.Event()
    with chain.storing(lambda _entries: None, threads=10_000) as store:
        if vault is None:
            assert store.put(SMALL, lambda: 1).done()
        else:
            first = store.put(SMALL, lambda: is_free.wait(10))
            assert not first.done()
            is_free.set()
