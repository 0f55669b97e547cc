"""Scratch folders: a chain that is trained to compare with does not outlive the comparison."""

from __future__ import annotations

import os
import signal
import stat
import tempfile

import pytest

from obliviate.disk.scratch import scratch
from tests.prepared import PROCESSES


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The system's temporary folder, for this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def killed(place):
    """A process that dies in the middle of a comparison."""
    tempfile.tempdir = str(place)
    with scratch() as folder:
        (folder / "state").write_text("of somebody")
        os.kill(os.getpid(), signal.SIGKILL)


def test_it_is_its_owners_alone_and_gone_afterwards(place):
    with scratch() as folder:
        (folder / "run").mkdir()
        (folder / "run" / "state").write_text("of somebody")
        assert folder.parent == place
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_it_is_gone_whatever_ends_it(place, error):
    with pytest.raises(error), scratch():
        raise error
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(place):
    process = PROCESSES.Process(target=killed, args=(place,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (left,) = (path for path in place.glob("obliviate-*") if path.is_dir())
    with scratch() as folder:
        assert [path for path in place.glob("obliviate-*") if path.is_dir()] == [folder]
        assert folder != left
    assert list(place.glob("obliviate-*")) == []


def test_what_is_at_work_or_not_ours_is_left(place):
    name = f"obliviate-{1:032x}"
    (place / "obliviate-mine").mkdir()
    (place / "precious").mkdir()
    (place / name).symlink_to(place / "precious")
    with scratch() as first, scratch() as second:
        assert first.is_dir()
        assert second.is_dir()
    assert {path.name for path in place.iterdir()} == {"obliviate-mine", "precious", name}
