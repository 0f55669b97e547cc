"""Bad input gets one clear message, changes nothing and loses nothing."""

import contextlib
import errno
import itertools
import json
import os
import resource
import sqlite3

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import obliviate as ob
from obliviate import errors
from obliviate.vault.marker import MARKER_NAME
from tests.models import BLOCKS, RECORDS, Guarded, images, mlp, recipe, records_in
from tests.prepared import PROCESSES

PEOPLE = [f"u{record // 3}" for record in range(RECORDS)]


@pytest.fixture
def run(tmp_path):
    return ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS, subjects=PEOPLE)


def snapshot(folder):
    """Everything a run says and holds."""
    connection = sqlite3.connect(folder / "ledger.sqlite")
    try:
        rows = "\n".join(line for line in connection.iterdump() if '"erasures"' not in line)
    finally:
        connection.close()
    vault = {path.name: path.read_bytes() for path in (folder / "vault").iterdir()}
    del vault[MARKER_NAME]  # whoever took the lease has written it anew
    return rows, vault


@pytest.fixture
def unchanged(run):
    before = snapshot(run.folder), run.digest
    yield
    assert (snapshot(run.folder), run.digest) == before


REQUESTS = {
    "unknown record": ({"records": [RECORDS]}, errors.UnknownRecord, r"ids run from 0 to 71"),
    "negative record": ({"records": [-1]}, errors.UnknownRecord, r"dataset: -1"),
    "record of a wrong type": ({"records": ["7"]}, errors.InvalidOption, "an int"),
    "fractional record": ({"records": [1.0]}, errors.InvalidOption, "an int"),
    "flag for a record": ({"records": [True]}, errors.InvalidOption, "an int"),
    "no list": ({"records": 7}, errors.InvalidOption, "list of record ids"),
    "unknown subject": ({"subjects": ["u99"]}, errors.UnknownSubject, "'u99' has no records"),
    "subject of a wrong type": ({"subjects": [9.5]}, errors.InvalidOption, "a string"),
    "one subject, no list": ({"subjects": "u1"}, errors.InvalidOption, r"\['u1'\]"),
    "nobody": ({}, errors.InvalidOption, "names nobody"),
    "nobody, in a list": ({"records": [], "subjects": []}, errors.InvalidOption, "names nobody"),
    "everybody": ({"records": range(RECORDS)}, errors.NothingLeft, "every record"),
    "unknown method": ({"records": [1], "method": "magic"}, errors.UnknownMethod, "'magic'"),
    "method of a wrong type": ({"records": [1], "method": 3}, errors.UnknownMethod, "3"),
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("call", ["forget", "preview"])
@pytest.mark.usefixtures("unchanged")
def test_wrong_requests(run, name, call):
    arguments, error, message = REQUESTS[name]
    with pytest.raises(error, match=message) as caught:
        getattr(run, call)(**arguments)
    assert caught.value.hint
    assert isinstance(caught.value, errors.RequestError)


def test_wrong_options_of_a_method():
    for epsilon in (0, -1, float("nan"), float("inf"), "small"):
        with pytest.raises(errors.InvalidOption, match="epsilon"):
            ob.DeepObliviate(epsilon=epsilon)


def test_a_record_that_is_erased_already_is_named_and_ignored(run):
    run.forget(records=[5], method="exact")
    assert run.preview(records=[5, 6]).ignored == (5,)
    erasure = run.forget(records=[5, 6], method="exact")
    assert (erasure.ignored, erasure.records) == ((5,), 1)
    digest = run.digest
    again = run.forget(records=[5, 6], method="exact")
    assert (again.ignored, again.blocks_replayed, again.digest) == ((5, 6), 0, digest)


def test_an_exact_request_for_somebody_forgotten_fast_makes_it_exact(run):
    (record,) = records_in(run, 2)
    assert (
        run.forget(records=[record], method=ob.DeepObliviate(epsilon=9)).guarantee == "approximate"
    )
    erasure = run.forget(records=[record], method="exact")
    assert (erasure.guarantee, run.guarantee) == ("exact", "exact")


def test_people_of_a_run_without_subjects(tmp_path):
    run = ob.fit(recipe(), images(), tmp_path, blocks=BLOCKS)
    with pytest.raises(errors.UnknownSubject, match="made without subjects"):
        run.forget(subjects=["u1"])


@pytest.mark.usefixtures("unchanged")
class TestForeign:
    """The recipe or the data are not those that the run was made with."""

    @pytest.mark.parametrize(
        "options",
        [
            {"repeats": 3},
            {"batch_size": 6},
            {"seed": 4},
            {"optimizer": torch.optim.Adagrad},
            {"model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4))},
            {"schedule": lambda step, total: 1 - step / total},
            {"loss": nn.MultiMarginLoss()},
            {"optimizer_state": "carried"},
        ],
        ids=lambda options: next(iter(options)),
    )
    def test_recipe(self, run, options):
        for opened in (
            lambda: ob.load(run.folder, recipe(**options), images()),
            lambda: ob.fit(recipe(**options), images(), run.folder, blocks=BLOCKS),
        ):
            with pytest.raises(errors.ForeignRecipe, match=next(iter(options))):
                opened()

    def test_length(self, run):
        with pytest.raises(errors.ForeignData, match="72 records, this dataset has 71"):
            ob.load(run.folder, recipe(), images(RECORDS - 1))

    def test_content(self, run):
        with pytest.raises(errors.ForeignData, match="other data"):
            ob.load(run.folder, recipe(), images(seed=1))

    def test_blocks(self, run):
        with pytest.raises(errors.InvalidOption, match="cut into 6 blocks, not 7"):
            ob.fit(recipe(), images(), run.folder, blocks=7)

    def test_exclude(self, run):
        with pytest.raises(errors.InvalidOption, match="call forget"):
            ob.fit(recipe(), images(), run.folder, blocks=BLOCKS, exclude=[1])


class TestBeforeFit:
    """What cannot be trained is refused before a folder is touched."""

    @pytest.fixture(autouse=True)
    def nothing_is_written(self, tmp_path):
        yield
        assert not (tmp_path / "run").exists()

    def fit(self, tmp_path, made=None, data=None, **options):
        values = {"blocks": BLOCKS} | options
        return ob.fit(made or recipe(), data or images(), tmp_path / "run", **values)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"blocks": 0}, "between 1 and 72"),
            ({"blocks": 73}, "between 1 and 72"),
            ({"blocks": 2.5}, "must be an int"),
            ({"subjects": ["a"]}, "1 subjects for 72 records"),
            ({"subjects": "a" * RECORDS}, "one entry for each record"),
            ({"subjects": [b"ann"] * RECORDS}, "a subject is a string"),
            ({"exclude": [72]}, "not in the dataset: 72"),
            ({"exclude": range(RECORDS)}, "no batch is large enough"),
        ],
    )
    def test_arguments(self, tmp_path, options, message):
        with pytest.raises(errors.RequestError, match=message):
            self.fit(tmp_path, **options)

    def test_every_fault_of_a_recipe_in_one_message(self):
        with pytest.raises(errors.InvalidRecipe) as caught:
            ob.Recipe(
                model=mlp(),
                optimizer="sgd",
                batch_size=0,
                repeats=1.5,
                optimizer_state="lost",
                device="abacus",
            )
        for fault in (
            "model is a module",
            "optimizer is 'sgd'",
            "batch_size is 0",
            "repeats is 1.5",
            "optimizer_state is 'lost'",
            "device 'abacus'",
            "loss and step are missing",
        ):
            assert fault in caught.value.message

    def test_a_dataset_without_a_length(self, tmp_path):
        with pytest.raises(errors.InvalidRecipe, match="map-style"):
            self.fit(tmp_path, data=iter([]))

    def test_a_batch_that_is_no_pair(self, tmp_path):
        data = torch.utils.data.TensorDataset(torch.randn(RECORDS, 1, 8, 8))
        with pytest.raises(errors.InvalidRecipe, match=r"not \(inputs, targets\)"):
            self.fit(tmp_path, data=data)

    def test_a_loss_that_is_no_scalar(self, tmp_path):
        made = recipe(loss=nn.CrossEntropyLoss(reduction="none"))
        with pytest.raises(errors.ObliviateError, match="scalar"):
            self.fit(tmp_path, made=made)

    def test_a_dataset_that_raises(self, tmp_path):
        data = Guarded(images())
        data.forbidden = set(range(RECORDS))
        with pytest.raises(
            errors.TrainingFailed, match="the dataset raised AssertionError: record"
        ):
            self.fit(tmp_path, data=data)

    def test_a_model_that_raises(self, tmp_path):
        made = recipe(model=lambda: nn.Linear(3, 4))
        with pytest.raises(errors.TrainingFailed, match="a first step raised RuntimeError"):
            self.fit(tmp_path, made=made)

    def test_a_factory_that_makes_no_module(self, tmp_path):
        with pytest.raises(errors.InvalidRecipe, match="gave int"):
            self.fit(tmp_path, made=recipe(model=lambda: 3))

    def test_a_forward_that_is_not_deterministic(self, tmp_path):
        counter = itertools.count()

        class Restless(nn.Linear):
            def forward(self, x):
                return super().forward(x.flatten(1)) * (1 + next(counter))

        with pytest.raises(errors.NotDeterministic, match="a loss differs"):
            self.fit(tmp_path, made=recipe(model=lambda: Restless(64, 4)))

    def test_a_dataset_that_is_not_deterministic(self, tmp_path):
        counter = itertools.count()

        class Restless(Guarded):
            def __getitem__(self, index):
                x, y = super().__getitem__(index)
                return x + next(counter), y

        with pytest.raises(errors.NotDeterministic, match="a batch differs"):
            self.fit(tmp_path, data=Restless(images()))

    def test_a_state_that_cannot_be_kept(self, tmp_path):
        class Extra(nn.Linear):
            def get_extra_state(self):
                return {"steps": 3}

            def set_extra_state(self, state):
                pass

        with pytest.raises(errors.InvalidRecipe, match="_extra_state' is not a tensor"):
            self.fit(tmp_path, made=recipe(model=lambda: nn.Sequential(nn.Flatten(), Extra(64, 4))))

    def test_a_url(self):
        with pytest.raises(errors.InvalidOption, match="is a URL"):
            ob.fit(recipe(), images(), "s3://bucket/run", blocks=BLOCKS)


def test_a_folder_with_other_files_in_it(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(errors.InvalidOption, match=r"thesis\.tex"):
        ob.fit(recipe(), images(), tmp_path, blocks=BLOCKS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_no_run(tmp_path):
    with pytest.raises(errors.RunMissing, match="no run"):
        ob.load(tmp_path / "nowhere", recipe(), images())
    assert not (tmp_path / "nowhere").exists()


class Poisoned(Dataset):
    """Records that become bad after a while: the reads are counted."""

    def __init__(self, good_reads, poison):
        self.data, self.left, self.poison = images(), good_reads, poison

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        self.left -= 1
        x, y = self.data[index]
        if self.left < 0:
            if self.poison is None:
                raise OSError("the disk with the photos is gone")
            x = x * self.poison
        return x, y


@pytest.mark.parametrize(
    ("poison", "error", "message"),
    [
        (float("nan"), errors.NotFinite, "block 4: the loss is nan"),
        (
            None,
            errors.TrainingFailed,
            "block 4: the dataset raised OSError: the disk with the photos",
        ),
    ],
)
def test_training_that_fails_keeps_the_blocks_before(tmp_path, poison, error, message):
    # two first steps, a batch less one record, one of one record, the loss looked at; samples
    probe_and_samples = 2 * 5 + 4 + 1 + 5 + 8 + 8
    bad = Poisoned(probe_and_samples + 3 * 24 + 2, poison)
    with pytest.raises(error, match=message):
        ob.fit(recipe(), bad, tmp_path / "run", blocks=BLOCKS)
    run = ob.load(tmp_path / "run", recipe(), images())
    assert run.status().blocks_done == 3
    with pytest.raises(errors.RunUnfinished, match="block 3 of 6"):
        run.model  # noqa: B018
    whole = ob.fit(recipe(), images(), tmp_path / "whole", blocks=BLOCKS)
    assert ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS).digest == whole.digest


@pytest.mark.parametrize("poison", [float("nan"), None])
@pytest.mark.parametrize("method", ["exact", "deepobliviate"])
def test_an_erasure_that_fails_is_taken_back(run, poison, method):
    before = snapshot(run.folder)[1], run.digest
    (record,) = records_in(run, 3)
    broken = ob.load(run.folder, recipe(), Poisoned(8 + 30, poison))
    with pytest.raises(errors.ObliviateError):
        broken.forget(records=[record], method=method)
    assert (snapshot(run.folder)[1], run.digest) == before
    assert run.status().erased == 0
    assert run.status().erasures[-1].state == "failed"
    assert run.forget(records=[record], method="exact").guarantee == "exact"


def hold(folder, held, release):
    from obliviate.ledger import Ledger

    ledger = Ledger(folder)
    assert ledger.lease.try_taking() is None
    held.set()
    release.wait(30)
    ledger.lease.release()


@pytest.mark.usefixtures("unchanged")
def test_a_run_that_a_live_process_writes_to(run):
    held, release = PROCESSES.Event(), PROCESSES.Event()
    other = PROCESSES.Process(target=hold, args=(run.folder, held, release))
    other.start()
    try:
        assert held.wait(30)
        run.writer.patience_seconds = 0
        for call in (lambda: run.forget(records=[1]), run.settle):
            with pytest.raises(errors.RunLocked, match=f"process {other.pid} on .* is writing"):
                call()
        assert run.preview(records=[1]).blocks == BLOCKS  # readers are not kept out
    finally:
        release.set()
        other.join()


def test_a_run_of_another_version(run):
    connection = sqlite3.connect(run.folder / "ledger.sqlite")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(errors.OtherFormat, match="format 9999"):
        ob.load(run.folder, recipe(), images())


class TestDamage:
    def test_a_ledger_that_is_none(self, run):
        run.ledger.close()
        (run.folder / "ledger.sqlite").write_bytes(b"not a database at all" * 100)
        with pytest.raises(errors.RunDamaged, match=r"ledger\.sqlite"):
            ob.load(run.folder, recipe(), images())

    def test_a_ledger_that_is_gone(self, run):
        run.ledger.close()
        (run.folder / "ledger.sqlite").unlink()
        with pytest.raises(errors.RunDamaged, match="its ledger is gone"):
            ob.fit(recipe(), images(), run.folder, blocks=BLOCKS)

    def objects(self, run, block):
        (entry,) = [entry for entry in run.chain().entries if entry.block == block]
        return [run.folder / "vault" / stored.key for stored in entry.objects]

    @pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
    def test_an_object(self, run, harm):
        (path, *_) = self.objects(run, 2)  # without it there is no state to replay from
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(data if harm == "flip" else data[:-7])
        with pytest.raises(errors.RunDamaged, match=path.name):
            run.forget(records=records_in(run, 3), method="exact")
        verification = run.verify()
        assert not verification.passed
        assert 2 in verification.failed
        assert run.status().erased == 0


@contextlib.contextmanager
def no_room_for_the_ledger():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # no file may grow beyond this
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def no_room_for_the_third_object():
    real, calls = os.fsync, itertools.count()

    def fsync(descriptor):
        if next(calls) >= 4:  # an object and its folder are flushed
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


@pytest.mark.parametrize("method", ["exact", "deepobliviate"])
@pytest.mark.parametrize("full", [no_room_for_the_ledger, no_room_for_the_third_object])
def test_a_full_disk(run, method, full):
    before = snapshot(run.folder)[1], run.digest
    (record,) = records_in(run, 1)
    with full(), pytest.raises(errors.StorageFull, match="cannot"):
        run.forget(records=[record], method=method)
    assert (snapshot(run.folder)[1], run.digest) == before
    run.forget(records=[record], method="exact")
    never = ob.fit(
        recipe(),
        images(),
        run.folder.parent / "n",
        blocks=BLOCKS,
        subjects=PEOPLE,
        exclude=[record],
    )
    assert run.digest == never.digest


def test_errors_are_one_message_and_one_hint():
    error = errors.UnknownMethod("there is no method 'x'", hint="choose another")
    assert str(error) == "there is no method 'x'\nchoose another"
    assert json.dumps({"error": error.message, "hint": error.hint})
