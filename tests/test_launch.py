"""Commands under a launcher: all ranks carry out what trains, and rank 0 alone all else."""

import pytest
from typer.testing import CliRunner

from obliviate.cli import app
from obliviate.cli.app import _BY_ALL_RANKS, _ROOMS
from obliviate.launch import is_one_of_several, is_speaking
from obliviate.ledger import Ledger
from obliviate.recipe.project import load_project
from obliviate.run.start import fit
from tests.project_file import write_project

LAUNCHED = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
ONCE = {
    "audit": ["RUN"],
    "estimate": ["--parameters", "1e6", "--steps", "1000", "--step-seconds", "1"],
    "forecast": ["--run", "RUN", "--rate", "1/month"],
    "lift": ["RUN", "--record", "1", "--reason", "consent"],
    "make-key": ["FOLDER/key"],
    "preview": ["RUN", "--subject", "user-3"],
    "queue": ["RUN"],
    "refuse": ["RUN", "2", "--reason", "no"],
    "report": ["RUN"],
    "request": ["RUN", "--subject", "user-3"],
    "status": ["RUN"],
    "vault": ["RUN", "--orphans"],
    "withdraw": ["RUN", "FOLDER/served"],
    "destroy-key": ["RUN", "--yes"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that every command has something to do with."""
    folder = tmp_path_factory.mktemp("launch")
    file = write_project(folder)
    source = load_project(file, {})
    known = {"file": str(file), "options": "{}"}
    options = {"subjects": source.subjects, "blocks": source.blocks, "project": known}
    options["tombstones"] = folder / "tombstones"
    with fit(source.recipe, source.data, folder / "run", **options) as made:
        made.forget(records=[1])
        made.request(subjects=["user-5"])
        made.export(folder / "served")
    (folder / "served").rename(folder / "gone")
    (folder / "run" / "vault" / ("0" * 32)).write_bytes(b"of nobody")
    return folder / "run"


@pytest.fixture
def rank(monkeypatch):
    """Be a rank of two."""

    def be(number):
        for name, value in (LAUNCHED | {"RANK": str(number)}).items():
            monkeypatch.setenv(name, value)

    return be


def called(command, run):
    words = [command, *ONCE[command]]
    for name, place in {"RUN": str(run), "FOLDER": str(run.parent)}.items():
        words = [each.replace(name, place) for each in words]
    return CliRunner().invoke(app, words)


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_command_is_carried_out_by_all_ranks_or_once():
    assert ONCE.keys() | {*_BY_ALL_RANKS} == _ROOMS.keys()
    assert not ONCE.keys() & {*_BY_ALL_RANKS}


@pytest.mark.parametrize("command", ONCE)
def test_other_ranks_leave_to_rank_0_what_is_done_once(command, run, rank):
    rank(1)
    before = content(run.parent)
    answer = called(command, run)
    assert (answer.exit_code, answer.output) == (0, "")
    assert content(run.parent) == before


def test_a_request_of_all_ranks_is_registered_once(run, rank):
    ledger = Ledger(run)
    before = len(ledger.requests.all())
    for number in (1, 0):
        rank(number)
        assert called("request", run).exit_code == 0
    assert len(ledger.requests.all()) == before + 1
    ledger.close()


def test_rank_0_carries_out_what_is_done_once(run, rank):
    rank(0)
    for command in ONCE:
        answer = called(command, run)
        assert answer.exit_code == 0, (command, answer.output)
        assert answer.output


def test_a_process_speaks_unless_a_launcher_has_started_others_before_it(monkeypatch, rank):
    for name in ("RANK", *LAUNCHED):
        monkeypatch.delenv(name, raising=False)
    assert is_speaking()
    monkeypatch.setenv("WORLD_SIZE", "4")  # as schedulers say it of a whole job
    monkeypatch.setenv("RANK", "3")
    assert not is_one_of_several()
    assert is_speaking()
    for number in (0, 1):
        rank(number)
        assert is_one_of_several()
        assert is_speaking() == (number == 0)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert is_speaking()
