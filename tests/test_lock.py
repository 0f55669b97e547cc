"""One writer at a time."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys

import pytest

from obliviate.errors import RunLocked, StorageFull
from obliviate.lock import writing

HOLDER = """
import sys
from pathlib import Path
from obliviate.lock import writing
with writing(Path(sys.argv[1])):
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


def test_a_second_process_is_told_who_writes_and_gets_in_when_that_one_is_killed(tmp_path, holder):
    with pytest.raises(RunLocked, match=str(holder.pid)) as refusal, writing(tmp_path):
        pass
    assert str(tmp_path) in refusal.value.message
    assert "what it began will be finished" in refusal.value.hint
    holder.kill()
    holder.wait()
    with writing(tmp_path):
        pass


def test_a_second_writer_in_this_process_is_refused(tmp_path):
    with writing(tmp_path):
        with pytest.raises(RunLocked, match=str(os.getpid())), writing(tmp_path):
            pass
        with pytest.raises(RunLocked), writing(tmp_path):
            pass


def test_the_lock_is_let_go_of(tmp_path):
    for _ in range(3):
        with writing(tmp_path):
            pass
    with pytest.raises(ValueError, match="of the body"), writing(tmp_path):
        raise ValueError("of the body")
    with writing(tmp_path):
        pass


def test_a_folder_is_made_where_there_is_none(tmp_path):
    with writing(tmp_path / "deep" / "run"):
        assert (tmp_path / "deep" / "run").is_dir()


def test_two_runs_have_two_locks(tmp_path):
    with writing(tmp_path / "one"), writing(tmp_path / "other"):
        pass


def test_a_folder_that_may_not_be_written_to_is_named(guarded_folder):
    folder, guarded = guarded_folder
    with guarded():
        with pytest.raises(StorageFull, match=str(folder)), writing(folder):
            pass
        with pytest.raises(StorageFull, match="Permission denied"), writing(folder / "new"):
            pass
    assert list(folder.iterdir()) == []


def test_a_read_only_file_system_is_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused(errno.EROFS))
        with pytest.raises(StorageFull, match="Read-only file system"), writing(tmp_path):
            pass


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(io, "open", refused(errno.ENOSPC))
        with pytest.raises(StorageFull, match="No space left"), writing(tmp_path):
            pass
    with writing(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_an_error_of_the_work_is_not_taken_for_one_of_the_lock(tmp_path, number):
    with pytest.raises(OSError, match="elsewhere") as raised, writing(tmp_path):
        raise OSError(number, os.strerror(number), "elsewhere")
    assert raised.value.errno == number


def test_a_lock_met_during_the_work_is_not_taken_for_the_own(tmp_path):
    with writing(tmp_path / "other"):
        with (
            pytest.raises(RunLocked) as refusal,
            writing(tmp_path / "one"),
            writing(tmp_path / "other"),
        ):
            pass
        assert str(tmp_path / "other") in refusal.value.message
