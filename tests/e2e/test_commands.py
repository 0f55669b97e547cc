"""Whole commands in processes of their own, as a shell calls them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.prepared import Prepared
from tests.project_file import write_project

pytestmark = pytest.mark.e2e
OBLIVIATE = Path(sys.executable).with_name("obliviate")
SLOW = """
import time
from torch.utils.data import Dataset


class Slow(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, record):
        time.sleep(0.05 if STOP.exists() else 0)
        return self.data[record]


made = project()
project = ob.Project(
    recipe=made.recipe, data=Slow(made.data), subjects=made.subjects, blocks=made.blocks
)
STOP = STOP.with_name("slow")
"""


STOPPED = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


def start(*words, **environment):
    """A process of its own, forked from one that has imported everything."""
    return Prepared(words, environment=environment)


def started_fresh(*words):
    """The same, by an interpreter of its own."""
    return subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def done(*words, by=start):
    process = by(*words)
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


def test_the_module_is_the_command(tmp_path):
    words = (sys.executable, "-m", "obliviate", "status", tmp_path / "x", "--json")
    assert done(*words, by=started_fresh) == (
        2,
        json.dumps(
            {
                "error": f"there is no run in {tmp_path / 'x'}",
                "hint": "check the path, or make one with `obliviate fit PROJECT RUN`",
                "code": "run_missing",
            }
        )
        + "\n",
        "",
    )


def wait_for(is_there):
    until = time.monotonic() + 180  # a machine may be busy
    while not is_there() and time.monotonic() < until:
        time.sleep(0.02)
    assert is_there()


@pytest.mark.parametrize("number", STOPPED)
def test_stopped_and_again(tmp_path, number):
    code_then, word = STOPPED[number]
    project, slow = write_project(tmp_path), tmp_path / "slow"
    project.write_text(project.read_text() + SLOW)
    slow.touch()
    by = started_fresh if number == signal.SIGTERM else start
    process = by(OBLIVIATE, "fit", project, tmp_path / "run")
    ledger = tmp_path / "run" / "ledger.sqlite"
    wait_for(ledger.exists)
    process.send_signal(number)
    _, said = process.communicate(timeout=180)
    assert process.returncode == code_then, said
    assert said.splitlines()[-1] == f"{word}: the same command goes on where this one stopped"
    slow.unlink()
    code, out, said = done(OBLIVIATE, "fit", project, tmp_path / "run", "--json")
    assert code == 0, said
    assert json.loads(out)["digest"]
    assert "the project is being loaded" in said
    code, _, said = done(OBLIVIATE, "audit", tmp_path / "run")
    assert code == 0, said


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_comparison_that_is_stopped_goes_on(tmp_path, number):
    project, slow, place = write_project(tmp_path), tmp_path / "slow", tmp_path / "bench"
    project.write_text(project.read_text() + SLOW)
    slow.touch()
    asked = (OBLIVIATE, "bench", project, "--folder", place, "--methods", "exact")
    asked += ("--requests", "1", "--no-backdoor")
    process = start(*asked)
    wait_for(lambda: list(place.glob("runs/*/ledger.sqlite")))
    process.send_signal(number)
    _, said = process.communicate(timeout=180)
    assert process.returncode == STOPPED[number][0], said
    assert "goes on where this one stopped" in said.splitlines()[-1]
    slow.unlink()
    code, out, said = done(*asked)
    assert code == 0, said
    assert "exact" in out
