"""The desk: requests are taken, planned and counted from the ledger, without torch or project."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import obliviate as ob
from obliviate.cli import app
from obliviate.desk import Desk
from obliviate.errors import KeyMissing, NothingLeft, UnknownMethod, UnknownRequest, UnknownSubject
from tests.counting import asked

SUBJECTS = [f"u{record % 20}" for record in range(40)]
FREE = """
import sys
from typer.testing import CliRunner
from obliviate.cli import app

for words in {calls!r}:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (words, result.output)
loaded = {{"torch", "scipy", "matplotlib", "sklearn"}} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.fixture
def folder(tmp_path, recipe_of, data):
    with ob.fit(recipe_of(), data, tmp_path / "run", blocks=8, subjects=SUBJECTS) as run:
        return run.folder


def test_it_says_what_the_run_says(folder, recipe_of, data):
    with Desk.at(folder) as desk, ob.load(folder, recipe_of(), data) as run:
        assert desk.request(subjects=["u3"], due="2099-01-01").records == 2
        assert desk.preview(subjects=["u5"]) == run.preview(subjects=["u5"])
        assert desk.queue() == run.queue()
        assert desk.status() == run.status()
        assert desk.refuse(1, "withdrawn").state == "refused"
        assert run.requests()[0].reason == "withdrawn"


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda desk: desk.request(subjects=["nobody"]), UnknownSubject),
        (lambda desk: desk.request(records=[1], method="magic"), UnknownMethod),
        (lambda desk: desk.request(subjects=sorted(set(SUBJECTS))), NothingLeft),
        (lambda desk: desk.request(), ob.ObliviateError),
        (lambda desk: desk.request(records=[1], due="1999-01-01"), ob.ObliviateError),
        (lambda desk: desk.refuse(7, "why"), UnknownRequest),
    ],
)
def test_a_wrong_request_changes_nothing(folder, ask, error):
    with Desk.at(folder) as desk:
        before = desk.status()
        with pytest.raises(error):
            ask(desk)
        assert desk.status() == before


def test_the_commands_of_the_desk_load_neither_torch_nor_the_project(
    folder, tmp_path, recipe_of, data
):
    gone = tmp_path / "gone"
    with ob.load(folder, recipe_of(), data) as run:
        run.export(gone)
    shutil.rmtree(gone)
    calls = [
        ["request", str(folder), "--subject", "u3", "--due", "2099-01-01"],
        ["request", str(folder), "--record", "7", "--method", "exact"],
        ["preview", str(folder), "--subject", "u4", "--method", "calibrated"],
        ["queue", str(folder)],
        ["status", str(folder), "--json"],
        ["refuse", str(folder), "1", "--reason", "withdrawn"],
        ["withdraw", str(folder), str(gone)],
    ]
    done = subprocess.run(
        [sys.executable, "-c", FREE.format(calls=calls)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_package_costs_no_torch():
    code = "import sys, obliviate; assert 'torch' not in sys.modules; dir(obliviate)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there():
    assert set(ob.__all__) <= set(dir(ob))
    assert all(getattr(ob, name) is not None for name in ob.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = ob.nothing


@pytest.mark.parametrize("waiting", [1, 40])
def test_the_queue_asks_the_ledger_a_fixed_number_of_times(folder, recipe_of, data, waiting):
    run = ob.load(folder, recipe_of(), data)
    for number in range(waiting):
        run.request(records=[number % 30], due="2099-01-01")
    with asked(run.ledger) as counted:
        assert len(run.queue().waiting) == waiting
    assert counted.statements <= 30
    run.close()


def test_a_key_service_is_asked_of_the_project(tmp_path):
    file = tmp_path / "project.py"
    file.write_text(SEALED)
    runner = CliRunner()
    folder = str(tmp_path / "run")
    assert runner.invoke(app, ["fit", str(file), folder]).exit_code == 0
    with pytest.raises(KeyMissing), Desk.at(Path(folder)):
        pass
    result = runner.invoke(app, ["request", folder, "--subject", "u1", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["records"] == 2


SEALED = """
from functools import partial
import torch
from torch import nn
from torch.utils.data import TensorDataset
import obliviate as ob

key = bytes(range(32))


def wrap(data_key, context):
    return bytes(a ^ b for a, b in zip(data_key, key, strict=True)) + context[:4]


def unwrap(wrapped, context):
    assert wrapped[32:] == context[:4]
    return bytes(a ^ b for a, b in zip(wrapped[:32], key, strict=True))


project = ob.Project(
    recipe=ob.Recipe(
        model=partial(nn.Linear, 4, 2),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        loss=nn.functional.cross_entropy,
    ),
    data=TensorDataset(torch.randn(12, 4), torch.arange(12) % 2),
    subjects=[f"u{record % 6}" for record in range(12)],
    blocks=3,
    seal=ob.KeyService(name="xor", wrapping=wrap, unwrapping=unwrap),
)
"""
