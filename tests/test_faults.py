"""Any single call to the disk fails once: it is named, and the same call again goes on.

The neighbour, another run beside this one, keeps all that it has.
"""

from __future__ import annotations

import shutil

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

import obliviate as ob
from obliviate.chain import storing
from obliviate.errors import ObliviateError
from tests.faults import NUMBERS, Faults, broken_once
from tests.models import images, recipe, records_in

BLOCKS = 3
OF_MEMORY = ("pipe_file", "cat_file", "info", "ls", "rm_file")
_FAST = ob.DeepObliviate(blocks=1)


def made(folder, **options):
    return ob.fit(recipe(), images(18), folder, blocks=BLOCKS, **options)


def load(folder):
    return ob.load(folder, recipe(), images(18))


def forgetting(method):
    def forget(folder):
        run = load(folder)
        run.forget(records=records_in(run, 2), method=method)

    return forget


def settling(folder):
    load(folder).settle()


def working(folder):
    load(folder).work(everything=True)


def extending(folder):
    load(folder).extend(images(6, seed=1), blocks=1)


def repairing(folder):
    assert load(folder).verify(repair=True).passed


def with_a_trace(folder):
    run = made(folder)
    run.forget(records=records_in(run, 2), method=_FAST)


def with_a_request(folder):
    run = made(folder)
    run.request(records=records_in(run, 2))


def with_a_loss(folder):
    run = made(folder)
    (folder / "vault" / run.chain().entries[2].update.key).unlink()


CALLS = {
    "fit": (lambda folder: None, made),
    "forget fast": (made, forgetting(_FAST)),
    "forget calibrated": (made, forgetting(ob.Calibrated(tolerance=100))),
    "forget exactly": (made, forgetting("exact")),
    "settle": (with_a_trace, settling),
    "work": (with_a_request, working),
    "extend": (made, extending),
    "repair": (with_a_loss, repairing),
}
"""What comes before, and the call whose disk fails."""


def evidence(folder):
    """What must not depend on faults."""
    data = images(18)
    with_more = torch.utils.data.ConcatDataset([data, images(6, seed=1)])
    ledger = ob.ledger.Ledger(folder)
    records = ledger.run().records
    ledger.close()
    run = ob.load(folder, recipe(), data if records == len(data) else with_more)
    assert set(run.vault) == run.ledger.objects.keys("live")
    assert not run.ledger.objects.keys("condemned")
    assert run.ledger.faults() == []
    found = [(entry.block, entry.guarantee, entry.digest) for entry in run.chain().entries]
    run.ledger.close()
    return found


@pytest.fixture(autouse=True)
def _one_commit_a_block(monkeypatch):
    """Else it is for the clock to say how many calls there are."""
    monkeypatch.setattr(storing, "GROUP_SECONDS", 0.0)
    monkeypatch.setattr(storing, "SHARE", 0)


class Scene:
    """One call, with what comes before it made once and copied for every try."""

    def __init__(self, place, name: str, monkeypatch) -> None:
        before, self.call = CALLS[name]
        self.place, self.patch, self.tries = place, monkeypatch, 0
        self.start = place / "start"
        before(self.start)
        neighbour = made(place / "neighbour")
        self.others = set(neighbour.vault)
        neighbour.ledger.close()
        self.calls = self.tried(Faults(place)).calls
        self.expected = evidence(self.place / "run0")

    def tried(self, faults: Faults) -> Faults:
        """The call in a copy of its own, and again if it failed."""
        folder = self.place / f"run{self.tries}"
        self.tries += 1
        if self.start.exists():
            shutil.copytree(self.start, folder)
        with faults.active(self.patch):
            try:
                self.call(folder)
            except ObliviateError as error:
                assert error.hint, error  # noqa: PT017
                assert faults.has_failed
                self.call(folder)
        return faults

    def fails_at(self, at: int) -> bool:
        """Let one call to the disk fail, with each of the errors in turn; whether it came to it.

        A thread that finds the connection of another one busy makes its own: how many calls there
        are differs by a few.
        """
        faults = Faults(self.place, at, NUMBERS[at % len(NUMBERS)])
        self.tried(faults)
        folder = self.place / f"run{self.tries - 1}"
        assert evidence(folder) == self.expected, (at, faults.calls[at:][:1])
        shutil.rmtree(folder)
        return faults.has_failed

    def neighbour_is_whole(self) -> bool:
        run = load(self.place / "neighbour")
        return set(run.vault) == self.others and run.verify().passed


@pytest.mark.parametrize("name", CALLS)
def test_some_calls_to_the_disk_fail_once(tmp_path, monkeypatch, name):
    scene = Scene(tmp_path, name, monkeypatch)
    assert {"sqlite", "fsync", "rename"} <= set(scene.calls)
    places = range(0, len(scene.calls), len(scene.calls) // 5)
    assert sum(map(scene.fails_at, places)) >= len(places) - 1
    assert scene.neighbour_is_whole()


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_every_call_to_the_disk_fails_once(tmp_path, monkeypatch, name):
    scene = Scene(tmp_path, name, monkeypatch)
    places = range(len(scene.calls))
    assert sum(map(scene.fails_at, places)) >= 0.9 * len(places)
    assert scene.neighbour_is_whole()


@pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.slow, id="every"), pytest.param(7, id="some")]
)
def test_calls_to_an_object_store_fail_once(tmp_path, monkeypatch, step):
    """Storing, reading, listing and destroying in what fsspec reaches."""

    def lived(name, at=-1, number=0):
        calls = []
        url = f"memory://{tmp_path.name}-{name}"
        with monkeypatch.context() as patch:
            calls = broken_once(patch, MemoryFileSystem, OF_MEMORY, at, number)
            for call in (
                lambda: made(tmp_path / name, vault=url),
                lambda: forgetting("exact")(tmp_path / name),
            ):
                try:
                    call()
                except ObliviateError as error:
                    assert error.hint, error  # noqa: PT017
                    call()
        return evidence(tmp_path / name), calls

    expected, calls = lived("undisturbed")
    assert set(calls) == set(OF_MEMORY)
    for at in range(0, len(calls), step):
        assert lived(f"run{at}", at, NUMBERS[at % len(NUMBERS)])[0] == expected, (at, calls[at])
