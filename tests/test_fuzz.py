"""Absurd calls, by thousands: each is refused in our own words, leaves nothing, changes nothing."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import uuid
import warnings
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from typer.testing import CliRunner

import obliviate as ob
from obliviate import datasets
from obliviate.cli import app
from obliviate.errors import ObliviateError
from obliviate.text import shown
from tests.project_file import write_project

SECONDS_A_CALL = 60
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


class Lying(torch.utils.data.Dataset):
    """Says that it has a length, and raises when it is asked."""

    def __len__(self):
        raise OSError("the share is gone\x1b[2J")

    def __getitem__(self, index):
        raise OSError("the share is gone")


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no")


NUMBERS = [
    *(True, False, 0, -1, 1, 3, 2**31, 2**63, 10**5000, -(10**5000), 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), 2j, Decimal("1.5"), Decimal("NaN"), Fraction(1, 3)),
    *(np.int64(3), np.float32("nan"), np.bool_(1), np.array(3), np.array([1, 2]), np.ones((2, 2))),
    *(torch.tensor(3), torch.tensor([1, 2]), torch.ones(2, 2), torch.tensor(float("nan"))),
    *(torch.empty((), device="meta"), np.datetime64("2030-01-01"), np.array(["a", None])),
]
TEXTS = [
    *("", " ", "\0", "\x1b[2J\x1b]0;owned\x07", "x" * 5000, "n" * 300, "surro\udcff", "half\ud800"),
    *(
        "a\nb",
        "nan",
        "1e999",
        "-1",
        "2GB",
        "~",
        "#",
        "?x=1",
        "é",
        "e\u0301",
        "\u202egnp.exe",
        "user-3",
    ),
    *("9999-12-31T23:59:59-12:00", "0001-01-01", "2030-02-30", "exact", "calibrated", "refuse"),
    *("ftp://x", "s3://", "file://elsewhere/x", "memory://x#y", "zip://a::b", "sqlite:///x", "://"),
    *(
        "postgresql://u:secret@h/d",
        "/dev/null",
        "/dev/full",
        "/dev/null/x",
        "/",
        ".",
        "..",
        "C:\\x",
    ),
    *("world/fifo", "world/loop", "world/file", "world/empty", "world/other", "world/sealed.key"),
]
LAST = datetime.max.replace(tzinfo=UTC)
OTHERS = [
    *(
        None,
        ...,
        NotImplemented,
        object,
        Unspeakable(),
        lambda: 1,
        Exception("odd"),
        uuid.UUID(int=7),
    ),
    *([], (), {}, set(), [None], [[]], {"a": 1}, {"user-3"}, range(3), range(10**6), b"x", b""),
    *(bytearray(b"x"), memoryview(b"x"), iter([1, 2]), PurePosixPath("x"), Path("world/empty")),
    *(LAST, LAST.replace(tzinfo=None), date.max, timedelta(1), uuid.UUID(int=7)),
    *(nn.Linear(2, 2), nn.Linear, torch.optim.SGD, Endless(), Lying(), warnings, os),
    *(
        ob.Exact(),
        ob.Exact,
        ob.Policy(),
        ob.Policy,
        ob.KeyVariable("NONE"),
        ob.KeyFile("world/fifo"),
    ),
    *(["user-3", 7], [("a", "b")] * 48, ["a"] * 48, [0.5] * 48, [3, 3], ["3"], [10**30]),
    *((torch.ones(4, 4), torch.ones(4)), [torch.ones(2)], DataLoader([1, 2]), TensorDataset()),
]
ODD = [*NUMBERS, *TEXTS, *OTHERS]
WORDS = [
    *[each for each in TEXTS if "\0" not in each],
    *("--json", "--", "-", "--help", "--no-such", "-s", "-r", "--subject", "--record=3", "-r=x"),
    *("--method", "--method=exact:x", "-m=calibrated:tolerance=nan", "--method=:,=", "--wait=-1"),
    *("--wait=inf", "--due", "--due=2020-01-01", "--margin=800000", "--margin=nan", "--blocks=0"),
    *("--block=99", "--block=x", "--vault=ftp://x", "--vault=/dev/null", "--key-file=world/fifo"),
    *("--key-variable=", "--key-variable=A=B", "--disk-budget=1", "--disk-budget=", "--option=x"),
    *("--option=blocks=0", "--option=blocks=\x1b[31m", "--option=nope=1", "--journal-head=\x1b[2J"),
    *("--project=world/file", "--project=world/loop", "--project=/dev/null", "--reason=\x1b[2J"),
    *("--rate=1e999/day", "--rate=1/eon", "--days=nan", "--days=-1", "--seed=-1", "--settle=,"),
    *("--settle=nan", "--training-seconds=inf", "--state-bytes=-1", "--exact-share=2", "0", "99"),
    *("world/run", "world/project.py", "world/run/ledger.sqlite", "world/vaults"),
]
COMMANDS = {
    "fit": ["world/project.py", "world/new"],
    "preview": ["world/run", "-s", "user-3"],
    "forget": ["world/run", "-s", "user-3"],
    "request": ["world/run", "-s", "user-3"],
    "refuse": ["world/run", "1", "--reason=why"],
    "queue": ["world/run"],
    "work": ["world/run"],
    "settle": ["world/run"],
    "extend": ["world/run"],
    "status": ["world/run"],
    "verify": ["world/run"],
    "vault": ["world/run"],
    "report": ["world/run"],
    "audit": ["world/empty"],
    "destroy-key": ["world/run"],
    "make-key": ["world/new.key"],
    "forecast": ["--rate=1/day", "--days=3", "--training-seconds=9", "--blocks=4"],
    "bench": ["world/none.py"],
    "lab": ["world/none.py", "world/lab", "-r", "3"],
}


class World:
    """A folder with a run, a project and odd things, that can be put back as it was."""

    def __init__(self, place):
        self.place, self.folder, self.copy = place, place / "world", place.parent / "copy"
        self.folder.mkdir()
        self._fill()
        self.recipe = ob.Recipe(
            model=partial(nn.Linear, 4, 3),
            optimizer=partial(torch.optim.SGD, lr=0.1),
            loss=nn.functional.cross_entropy,
            batch_size=8,
        )
        generator = torch.Generator().manual_seed(7)
        self.data = TensorDataset(torch.randn(48, 4, generator=generator), torch.arange(48) % 3)
        people = [f"user-{record // 2}" for record in range(48)]
        mine = self.folder / "mine"
        run = ob.fit(self.recipe, self.data, mine, blocks=4, subjects=people)
        run.request(records=[1])
        self.digest = run.digest
        run.ledger.close()
        assert CliRunner().invoke(app, ["fit", "world/project.py", "world/run"]).exit_code == 0
        shutil.copytree(self.folder, self.copy, symlinks=True, copy_function=self._copied)
        self.run, self.before = self._opened(), self.seen()

    def _fill(self):
        write_project(self.folder)
        os.mkfifo(self.folder / "fifo")
        (self.folder / "loop").symlink_to("loop")
        (self.folder / "file").write_text("no,\x1b[2J\n1,2\n")
        (self.folder / "empty").mkdir()
        (self.folder / "other").mkdir()
        (self.folder / "other" / "thesis.tex").write_text("mine")
        ob.KeyFile.create(self.folder / "sealed.key")

    @staticmethod
    def _copied(source, target):
        if Path(source).is_fifo():
            return os.mkfifo(target)
        return shutil.copy2(source, target)

    def _opened(self):
        return ob.load(self.folder / "mine", self.recipe, self.data)

    def restore(self):
        self.run.ledger.close()
        for path in self.place.iterdir():
            path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
        shutil.copytree(self.copy, self.folder, symlinks=True, copy_function=self._copied)
        self.run = self._opened()

    def seen(self):
        """All paths there are, with what is in them; of a ledger, what it says."""
        found = {}
        for path in sorted(self.place.rglob("*")):
            name = str(path.relative_to(self.place))
            if path.name == "ledger.sqlite":
                found[name] = hashlib.sha256(dumped(path).encode()).hexdigest()
            elif path.is_file() and not path.name.startswith("ledger.sqlite"):
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif not path.name.startswith("ledger.sqlite") and path.name != "__pycache__":
                found[name] = "there"
        return {name: said for name, said in found.items() if "__pycache__" not in name}

    def calls(self, key):
        """Callables of the public interface, with arguments that are right."""
        run = self.run
        fit = {
            "recipe": self.recipe,
            "data": self.data,
            "path": "world/fresh",
            "blocks": 4,
            "subjects": None,
            "exclude": (),
            "ledger": None,
            "tombstones": None,
            "reingested": "exclude",
            "vault": None,
            "seal": None,
            "disk_budget": None,
        }
        load = {"path": "world/mine", "recipe": self.recipe, "data": self.data}
        load |= {"patience_seconds": 1, "seal": None}
        named = {"records": [3], "subjects": ["user-3"], "method": "exact"}
        more = {"data": self.data, "blocks": 2, "subjects": None, "exclude": ()}
        found = {
            "fit": (ob.fit, fit),
            "fit again": (ob.fit, fit | {"path": "world/mine"}),
            "load": (ob.load, load),
            "preview": (run.preview, named),
            "forget": (run.forget, named),
            "request": (run.request, named | {"due": None}),
            "refuse": (run.refuse, {"request": 1, "reason": "why"}),
            "queue": (run.queue, {"policy": None}),
            "work": (run.work, {"policy": None, "everything": False}),
            "verify": (run.verify, {"blocks": [1], "journal_head": None, "repair": False}),
            "stock": (run.stock, {"check": False}),
            "extend": (run.extend, more),
            "DeepObliviate": (ob.DeepObliviate, {"epsilon": 1, "functional": False, "blocks": 1}),
            "Calibrated": (ob.Calibrated, {"tolerance": 1, "blocks": 1}),
            "Exact": (ob.Exact, {"functional": False}),
            "Policy": (ob.Policy, {"margin_days": 1, "fast_first": True}),
            "KeyFile": (ob.KeyFile, {"path": "world/sealed.key"}),
            "KeyFile.create": (ob.KeyFile.create, {"path": "world/fresh.key"}),
            "KeyVariable": (ob.KeyVariable, {"name": "NONE"}),
            "KeyService": (ob.KeyService, {"wrapping": max, "unwrapping": max, "name": "kms"}),
            "csv": (datasets.csv, {"path": "world/file", "target": "no", "delimiter": ","}),
            "csv_column": (datasets.csv_column, {"path": "world/file", "name": "no"}),
            "idx": (datasets.idx, {"images": "world/file", "labels": "world/file"}),
            "idx_folder": (datasets.idx_folder, {"folder": "world/other", "split": "train"}),
            "table": (datasets.table, {"path": "world/file", "target": "no", "subject": "no"}),
            "movielens": (datasets.movielens, {"place": "world/other"}),
            "tofu": (datasets.tofu, {"place": "world/file"}),
            "synthetic": (datasets.synthetic_purchase, {"records": 3, "features": 2, "seed": 0}),
        }
        return found[key]


API = """
fit,fit again,load,preview,forget,request,refuse,queue,work,verify,stock,extend,DeepObliviate,
Calibrated,Exact,Policy,KeyFile,KeyFile.create,KeyVariable,KeyService,csv,csv_column,idx,idx_folder,
table,movielens,tofu,synthetic
""".replace("\n", "").split(",")


def dumped(path):
    connection = sqlite3.connect(path)
    try:
        return "\n".join(connection.iterdump())
    finally:
        connection.close()


@pytest.fixture
def world(tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    made = World(place)
    yield made
    made.run.ledger.close()


@pytest.fixture(autouse=True)
def _no_call_hangs():
    def over(_signal, _frame):
        raise AssertionError("a call hangs")

    before = signal.signal(signal.SIGALRM, over)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def absurd_arguments(chance, arguments):
    """Some of the arguments, replaced."""
    count = chance.choice([1, 1, 1, 2, 3])
    changed = chance.sample(sorted(arguments), min(count, len(arguments)))
    return arguments | {name: chance.choice(ODD) for name in changed}


def check_refusal(error, said):
    assert error.message, said
    assert not CONTROL.search(str(error)), said
    assert len(str(error)) < 9000, said


def check_unchanged(world, said):
    after = world.seen()
    changed = sorted(name for name, _ in after.items() ^ world.before.items())
    assert not changed, f"{said} changed {changed}"


def try_api(world, chance):
    key = chance.choice(API)
    call, right = world.calls(key)
    arguments = absurd_arguments(chance, right)
    said = f"{key}({', '.join(f'{name}={shown(each)}' for name, each in arguments.items())})"
    signal.alarm(SECONDS_A_CALL)
    try:
        made = call(**arguments)
    except ObliviateError as error:
        check_refusal(error, said)
        check_unchanged(world, said)
    except Exception as error:
        raise AssertionError(f"{said} raised {type(error).__name__}: {error}") from error
    else:
        if isinstance(made, ob.Run):
            made.ledger.close()
        if world.seen() != world.before:
            world.restore()
    finally:
        signal.alarm(0)


def absurd_words(chance):
    """A command line: a right one, with words put in, taken out and replaced."""
    command = chance.choice(sorted(COMMANDS))
    words = list(COMMANDS[command])
    for _ in range(chance.choice([1, 1, 2, 3])):
        at = chance.randrange(len(words) + 1)
        what = chance.choice(["in", "in", "out", "instead"])
        if what == "in" or not words:
            words.insert(at, chance.choice(WORDS))
        elif what == "out":
            words.pop(min(at, len(words) - 1))
        else:
            words[min(at, len(words) - 1)] = chance.choice(WORDS)
    return [command, *words]


def try_command(world, chance):
    words = absurd_words(chance)
    signal.alarm(SECONDS_A_CALL)
    result = CliRunner().invoke(app, words)
    signal.alarm(0)
    assert result.exit_code in (0, 1, 2), (words, result.output, result.exc_info)
    assert result.exception is None or isinstance(result.exception, SystemExit), words
    assert not CONTROL.search(result.output.replace("\r", "")), (words, result.output)
    assert len(result.output) < 60_000, words
    if "--json" in words and "--help" not in words:
        said = json.loads(result.stdout)
        assert result.exit_code == 0 or "code" in said or "error" not in said, words
    if result.exit_code:
        check_unchanged(world, f"{words}, which said {result.output}")
    elif world.seen() != world.before:
        world.restore()


def absurdities(world, count, seed):
    chance = random.Random(seed)
    for number in range(count):
        (try_api if number % 2 else try_command)(world, chance)
    assert world.run.digest == world.digest
    assert world.run.verify().passed


def test_absurd_calls_are_refused_and_change_nothing(world):
    absurdities(world, 120, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_absurd_calls_are_refused_and_change_nothing(world, seed):
    absurdities(world, 500, seed=100 + seed)
