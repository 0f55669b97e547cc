"""Whole commands in processes of their own, as a shell calls them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
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


def start(*words):
    return subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def done(*words):
    process = start(*words)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_the_module_is_the_command(tmp_path):
    assert done(sys.executable, "-m", "obliviate", "status", tmp_path / "x", "--json") == (
        2,
        json.dumps(
            {
                "error": f"there is no run in {tmp_path / 'x'}",
                "hint": "check the path, or make one with `obliviate fit PROJECT RUN`",
            }
        )
        + "\n",
        "",
    )


def test_control_c_and_again(tmp_path):
    project, slow = write_project(tmp_path), tmp_path / "slow"
    project.write_text(project.read_text() + SLOW)
    slow.touch()
    process = start(OBLIVIATE, "fit", project, tmp_path / "run")
    ledger = tmp_path / "run" / "ledger.sqlite"
    until = time.monotonic() + 30
    while not ledger.exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted: the same command goes on where this one stopped"
    slow.unlink()
    code, out, said = done(OBLIVIATE, "fit", project, tmp_path / "run", "--json")
    assert code == 0, said
    assert json.loads(out)["digest"]
    assert "the project is being loaded" in said
    code, _, said = done(OBLIVIATE, "audit", tmp_path / "run")
    assert code == 0, said
