"""Whoever makes a run in a folder is alone in it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading

import pytest

from obliviate.disk.lock import alone
from obliviate.errors import StorageFull

HOLDER = """
import sys
from pathlib import Path
from obliviate.disk.lock import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline().strip() == b"held"
        yield process
        process.kill()


def refused(number: int):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_second_process_waits_and_gets_in_when_the_first_is_killed(tmp_path, holder):
    entered = threading.Event()

    def enter():
        with alone(tmp_path):
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.wait(0.3)
    holder.kill()
    holder.wait()
    assert entered.wait(30)
    waiting.join()


def test_the_lock_is_let_go_of(tmp_path):
    for _ in range(3):
        with alone(tmp_path):
            pass
    with pytest.raises(ValueError, match="of the body"), alone(tmp_path):
        raise ValueError("of the body")
    with alone(tmp_path):
        pass


def test_a_folder_is_made_where_there_is_none(tmp_path):
    with alone(tmp_path / "deep" / "run"):
        assert (tmp_path / "deep" / "run").is_dir()


def test_two_runs_have_two_locks(tmp_path):
    with alone(tmp_path / "one"), alone(tmp_path / "other"):
        pass


def test_a_folder_that_may_not_be_written_to_is_named(guarded_folder):
    folder, guarded = guarded_folder
    with guarded():
        with pytest.raises(StorageFull, match=str(folder)), alone(folder):
            pass
        with pytest.raises(StorageFull, match="Permission denied"), alone(folder / "new"):
            pass
    assert list(folder.iterdir()) == []


def test_a_read_only_file_system_is_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused(errno.EROFS))
        with pytest.raises(StorageFull, match="Read-only file system"), alone(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_an_error_of_the_work_is_not_taken_for_one_of_the_lock(tmp_path, number):
    with pytest.raises(OSError, match="elsewhere") as raised, alone(tmp_path):
        raise OSError(number, os.strerror(number), "elsewhere")
    assert raised.value.errno == number
