"""Executors: whoever carries tasks out, the same comes of it, and the same goes wrong."""

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import pytest

from obliviate import errors
from obliviate.cli.work import work
from obliviate.executors import Job, executor_of
from obliviate.executors.beacons import PREFIX, check_seen, lit
from obliviate.executors.cluster import started
from obliviate.lab import lab
from obliviate.lab.experiment import question_of
from obliviate.lab.trials import Trial, Workplace
from obliviate.lab.workers import Trials
from obliviate.recipe.project import ProjectFile, load_project
from obliviate.run.start import fit
from obliviate.training.determinism import environment_facts
from tests.project_file import write_project
from tests.ranks import free_port
from tests.tasks import Source


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine, connected to, as one whom this process belongs to would be."""
    with started(2):
        yield


@pytest.fixture(params=["local", "ray"])
def executor(request):
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return executor_of(request.param, 2)


def carried_out(executor, folder, *tasks, source=Source):
    found = {}
    for some in executor.results(Job(source=source(folder), tasks=tasks, folders=(folder,))):
        assert not found.keys() & some.keys()
        found |= some
    return found


def test_tasks_are_carried_out_by_their_names_in_workers_made_once(executor, tmp_path):
    names = tuple(f"task-{number}" for number in range(6))
    found = carried_out(executor, tmp_path, *names)
    assert {name: one["name"] for name, one in found.items()} == {name: name for name in names}
    processes = {one["process"] for one in found.values()}
    assert os.getpid() not in processes
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {f"made-{process}": "x" for process in processes}


@pytest.mark.parametrize(
    ("name", "kind"), [("wrong", errors.UnknownRecord), ("raise", ZeroDivisionError)]
)
def test_what_a_task_raises_is_raised(executor, tmp_path, name, kind):
    with pytest.raises(kind) as raised:
        carried_out(executor, tmp_path, name, "other")
    assert type(raised.value) is kind
    assert getattr(raised.value, "hint", "name another") == "name another"


def test_a_killed_worker_of_this_machine_is_told(tmp_path):
    with pytest.raises(errors.ObliviateError, match="worker process ended"):
        carried_out(executor_of("local", 1), tmp_path, "die")


def test_a_killed_worker_of_a_cluster_is_replaced(cluster, tmp_path):
    found = carried_out(executor_of("ray", 1), tmp_path, "die", "other")
    assert found.keys() == {"die", "other"}
    assert (tmp_path / "die").exists()


@pytest.mark.slow
def test_a_task_that_always_kills_its_worker_is_told(cluster, tmp_path):
    with pytest.raises(errors.ObliviateError, match="worker of the Ray cluster was lost") as raised:
        carried_out(executor_of("ray", 1), tmp_path, "die always")
    assert "call again" in raised.value.hint


def test_what_workers_cannot_import_is_told(cluster, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text(
        "from tests.tasks import Source\nclass Own(Source):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("only_here").Own
    with pytest.raises(errors.InvalidOption, match="only_here") as raised:
        carried_out(executor_of("ray", 1), tmp_path, "task", source=own)
    assert "PYTHONPATH" in raised.value.hint


def test_a_folder_of_the_same_name_is_not_taken_for_the_one_that_is_meant(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    with lit([place]) as beacons:
        check_seen(beacons)
        shutil.move(place, tmp_path / "moved")
        place.mkdir()
        with pytest.raises(errors.InvalidOption, match="does not see") as raised:
            check_seen(beacons)
        assert "share" in raised.value.hint
        shutil.rmtree(place)
        shutil.move(tmp_path / "moved", place)
    assert not list(place.glob(f"{PREFIX}*"))


@pytest.mark.parametrize(
    ("on", "kind", "said"),
    [
        ("ray://127.0.0.1:1", errors.ConnectionLost, "no Ray cluster answers"),
        ("ray://head", errors.InvalidOption, "no address"),
        ("nobody", errors.InvalidOption, "'nobody'"),
        (3, errors.InvalidOption, "on is 3"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(on, kind, said, tmp_path):
    started = time.monotonic()
    with pytest.raises(kind, match=said) as raised:
        carried_out(executor_of(on, 2), tmp_path, "task")
    assert raised.value.hint
    assert time.monotonic() - started < 10


class Refuses(grpc.GenericRpcHandler):
    """What a cluster says, whatever it is asked, to those who have not its token."""

    def service(self, details):
        def answer(request, context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or incorrect")

        return grpc.unary_unary_rpc_method_handler(answer)


ASKING = """
import sys
from pathlib import Path
from obliviate.errors import ConnectionLost
from obliviate.executors import Job, executor_of
from tests.tasks import Source

folder = Path(sys.argv[2])
job = Job(source=Source(folder), tasks=("a", "b"), folders=(folder,))
try:
    print(sorted(name for some in executor_of(sys.argv[1], 2).results(job) for name in some))
except ConnectionLost as error:
    print(error)
"""


def asked(on, folder, **variables):
    """What a process is told by a cluster: Ray looks for tokens as a process begins."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own |= {"HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", ASKING, on, str(folder)]
    given = {"env": own | variables, "capture_output": True, "text": True}
    return subprocess.run(words, check=False, **given).stdout


@pytest.mark.parametrize("is_client", [True, False])
def test_a_cluster_that_refuses_the_token_is_told_at_once(is_client, tmp_path):
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Refuses()])
    place = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    begun = time.monotonic()
    said = asked(f"ray://{place}" if is_client else "ray", tmp_path, RAY_ADDRESS=place)
    server.stop(None)
    assert f"{place} asks for a token" in said
    assert "set RAY_AUTH_MODE=token" in said
    assert time.monotonic() - begun < 60  # Ray would try three times, for half a minute each


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_carries_tasks_out(tmp_path):
    head, client = free_port(), free_port()
    (tmp_path / "token").write_text("0123456789abcdef" * 2)
    with_token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    with_other = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "fedcba9876543210" * 2}
    by_address, by_url = {"RAY_ADDRESS": f"127.0.0.1:{head}"}, f"ray://127.0.0.1:{client}"
    with started_head(tmp_path, head, client, with_token):
        until = time.monotonic() + 240
        while "no Ray cluster" in (said := asked("ray", tmp_path, **by_address, **with_token)):
            assert time.monotonic() < until
        assert said == "['a', 'b']\n"
        assert asked(by_url, tmp_path, **with_token) == said
        for variables in ({}, with_other):
            assert "asks for a token" in asked(by_url, tmp_path, **variables)
            assert "asks for a token" in asked("ray", tmp_path, **by_address, **variables)
        without = asked(by_url, tmp_path, RAY_AUTH_MODE="token")
        assert "RAY_AUTH_MODE is token, and there is none" in without


@contextlib.contextmanager
def started_head(folder, head, client, variables):
    words = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2"]
    words += [f"--port={head}", f"--ray-client-server-port={client}", "--disable-usage-stats"]
    words += ["--include-dashboard=false", "--object-store-memory=83886080"]
    words += ["--min-worker-port=0", "--max-worker-port=0", "--node-ip-address=127.0.0.1"]
    own = {"HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(words, env=os.environ | own | variables, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def test_ray_leaves_the_variables_of_the_process_as_they_were(cluster):
    names = {name for name in os.environ if name.startswith("RAY_")}
    assert names <= {"RAY_CLIENT_MODE"}  # which importing Ray sets


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "obliviate.executors.cluster", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.ExtraMissing) as raised:
        executor_of("ray", 2)
    assert "obliviate[ray]" in raised.value.hint


PROJECT = '''
import os, signal
from pathlib import Path
from functools import partial

import torch
from torch import nn

import obliviate as ob


class Records(torch.utils.data.Dataset):
    """Reading record 3 kills the process, once, where a file is named."""

    def __init__(self, flag):
        self.flag = flag
        self.inputs = torch.randn(24, 4, generator=torch.Generator().manual_seed(7))
        self.read = 0

    def __len__(self):
        return 24

    def __getitem__(self, record):
        self.read += 1
        if self.flag and self.read > 100 and not Path(self.flag).exists():
            Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inputs[record], record % 2


def project(flag=""):
    recipe = ob.Recipe(
        model=partial(nn.Linear, 4, 2),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        loss=nn.functional.cross_entropy,
        batch_size=4,
    )
    return ob.Project(recipe=recipe, data=Records(flag), blocks=3)
'''


@pytest.mark.slow
def test_a_laboratory_on_a_cluster_finds_the_same_though_a_worker_is_killed(cluster, tmp_path):
    file = tmp_path / "tiny.py"
    file.write_text(PROJECT)
    asked = {"records": [3], "methods": ["deepobliviate:blocks=1"], "seeds": 3}
    here = lab(load_project(file, {}), tmp_path / "here", **asked)
    flag = tmp_path / "killed"
    source = ProjectFile(file=file, options={"flag": str(flag)})
    there = lab(source, tmp_path / "there", workers=2, on="ray", **asked)
    assert flag.exists()
    assert measured(tmp_path / "there") == measured(tmp_path / "here")
    assert timeless(there) == timeless(here)


def measured(folder):
    """What was measured on each model, but for how long it took."""
    found = {}
    for path in (folder / "cells").iterdir():
        cell = json.loads(path.read_text())
        facts = {name: cell["facts"].get(name) for name in ("digest", "blocks_replayed", "gap")}
        found[path.name] = (cell["scores"], cell["accuracies"], facts)
    return found


def timeless(result):
    return replace(result, findings=tuple(replace(row, seconds=0) for row in result.findings))


def test_models_are_not_made_on_a_machine_that_computes_otherwise(tmp_path):
    file = tmp_path / "tiny.py"
    file.write_text(PROJECT)
    source = ProjectFile(file=file, options={})
    asked = {"records": [3], "subjects": [], "methods": [], "seeds": 3}
    question = question_of(source(), **asked)
    environment = environment_facts() | {"processor": "ABACUS"}
    place = {"question": question, "folder": tmp_path, "keeps": False, "environment": environment}
    trials = Trials(
        project=source,
        place=partial(Workplace, **place),
        trials=tuple(Trial.all_of(question)),
        environment=environment,
    )
    with pytest.raises(errors.InvalidOption, match="ABACUS"):
        trials()


def test_a_cluster_works_on_several_runs(cluster, tmp_path):
    file = write_project(tmp_path)
    project = load_project(file, {})
    runs = []
    for name in ("a", "b"):
        options = {"subjects": project.subjects, "blocks": project.blocks}
        known = {"file": str(file), "options": "{}"}
        with fit(project.recipe, project.data, tmp_path / name, project=known, **options) as run:
            run.request(subjects=["user-3"])
        runs.append(str(tmp_path / name))
    (tmp_path / "b" / "ledger.sqlite").rename(tmp_path / "b" / "gone")
    chosen = {"everything": True, "margin": 7.0, "workers": 1, "on": "ray"}
    with pytest.raises(errors.RunMissing):
        work(runs, **chosen)
    (tmp_path / "b" / "gone").rename(tmp_path / "b" / "ledger.sqlite")
    answer = work(runs, **chosen)
    assert answer.code == 0
    assert [one["run"] for one in answer.facts["runs"]] == runs
    digests = {one["erasures"][0]["digest"] for one in answer.facts["runs"]}
    assert len(digests) == 1
    assert "request" in "".join(map(str, answer.shown))
    again = work(runs[:1], **chosen)
    assert again.facts["erasures"] == []
