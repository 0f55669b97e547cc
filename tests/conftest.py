"""What every test stands on: one thread, fixed Hypothesis examples, tiny data and recipes."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from tests import objects_server
from tests.buckets import S3Side
from tests.server import MISSING, programs, serving

pytest.register_assert_rewrite(
    "obliviate.testing.method",
    "obliviate.testing.trainer",
    "obliviate.testing.unlearner",
    "tests.contracts.vault_contract",
    "tests.contracts.storage_contract",
)

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("ci")

NOBODY = 65534
MEMORY, ROOM_BYTES = Path("/dev/shm"), 4 << 30


def stay_in_memory() -> None:
    """Keep temporary files in memory where there is room: nothing of a test outlives it."""
    is_ours = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    if is_ours and "TMPDIR" not in os.environ and shutil.disk_usage(MEMORY).free > ROOM_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def stay_out_of_caches() -> None:
    """Let Hugging Face's libraries keep what they make of a test's files where it goes with it."""
    folder = tempfile.TemporaryDirectory(prefix="obliviate-tests-")
    atexit.register(folder.cleanup)
    os.environ["HF_DATASETS_CACHE"] = folder.name  # read when they are imported


stay_in_memory()
stay_out_of_caches()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def server():
    """A PostgreSQL server."""
    if programs() is None:
        pytest.skip(MISSING)
    with serving() as server:
        yield server


@pytest.fixture
def database(server):
    """The URL of a place for a ledger."""
    return server.schema()


@pytest.fixture(params=["file", "server"])
def ledger_url(request):
    """Where a ledger lies: None for a file in its run's folder, or the URL of a database."""
    return None if request.param == "file" else request.getfixturevalue("database")


@pytest.fixture(scope="session")
def objects():
    """A server of S3's API."""
    with objects_server.serving() as server:
        yield server


@pytest.fixture
def s3(objects, monkeypatch):
    """A function that makes a bucket and gives its URL; the environment leads to its server."""
    for name, value in objects_server.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", objects.endpoint)
    return lambda: f"s3://{objects.bucket()}"


@pytest.fixture
def side(s3, objects):
    """A new bucket, seen from outside."""
    return S3Side(objects, s3().removeprefix("s3://"))


@pytest.fixture
def proxy(objects, s3, monkeypatch):
    """A proxy on the way to the server."""
    with objects_server.Proxy(objects).serving() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy


@pytest.fixture
def data():
    """Forty records of four features in three classes."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(40, 4, generator=generator)
    return TensorDataset(inputs, torch.arange(40) % 3)


@pytest.fixture
def recipe_of():
    """A function that makes recipes: `recipe_of(repeats=2)` differs from the tiny one there."""
    tiny = {
        "model": partial(nn.Linear, 4, 3),
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "loss": nn.functional.cross_entropy,
        "batch_size": 4,
        "seed": 3,
    }
    return lambda **changes: ob.Recipe(**(tiny | changes))


@pytest.fixture
def guarded_folder():
    """A folder, and a context in which nobody may write to it, not even the superuser."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        @contextlib.contextmanager
        def guarded(*inner):
            is_superuser = os.geteuid() == 0
            for each in (folder, *inner):
                each.chmod(0o555)
                for file in filter(Path.is_file, each.iterdir()):
                    file.chmod(0o644)  # what is ours alone by itself, others are let read here
            if is_superuser:
                os.seteuid(NOBODY)
            try:
                yield
            finally:
                if is_superuser:
                    os.seteuid(0)
                for each in (folder, *inner):
                    each.chmod(0o755)

        yield folder, guarded
