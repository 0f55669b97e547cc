"""The retraining audit: it passes what is right, fails what is wrong, and reads nobody erased."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate.errors import RunUnfinished, TrainingFailed
from obliviate.lab import accuracy, audit
from obliviate.training.determinism import Environment

BLOCKS = 10
PARTS = slice(30), slice(30, None)


@pytest.fixture
def run(recipe_of, data, tmp_path):
    return ob.fit(recipe_of(), data, tmp_path / "run", blocks=BLOCKS, exclude=[11])


def first_record(run):
    return int(run.trainer.layout.members(1)[0])


def test_an_exact_run_passes(run, data):
    run.forget(records=[3, 5], method="exact")
    found = audit(run, data)
    assert (found.verdict, found.passed, found.guarantee) == ("passed", True, "exact")
    assert found.digest == found.digest_retrained == run.digest
    assert found.distance == 0
    assert found.accuracy == found.accuracy_retrained
    assert found.left_out == 3
    assert found.changed_environment == {}


def test_an_audit_writes_nothing(run, data, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert audit(run, data).passed
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_run_of_people_in_epochs_passes(data, recipe_of, tmp_path):
    subjects = [f"user-{record % 7}" for record in range(40)]
    recipe = recipe_of(epochs=3)
    run = ob.fit(recipe, data, tmp_path / "run", blocks=BLOCKS, subjects=subjects)
    run.forget(subjects=["user-3"], method="exact")
    assert audit(run).verdict == "passed"


@pytest.mark.parametrize("over", ["new", "all"])
def test_an_extended_run_passes(data, recipe_of, tmp_path, over):
    old, new = (TensorDataset(*(each[part] for each in data.tensors)) for part in PARTS)
    subjects = [f"user-{record % 7}" for record in range(40)]
    run = ob.fit(recipe_of(epochs=2), old, tmp_path / "run", blocks=5, subjects=subjects[:30])
    run.extend(new, epochs=2, over=over, subjects=subjects[30:])
    run.forget(subjects=["user-3"], method="exact")
    assert audit(run).verdict == "passed"


def test_an_approximate_run_is_compared_not_judged(run, data):
    run.forget(records=[first_record(run)], method=ob.DeepObliviate(epsilon=9))
    found = audit(run, data)
    assert (found.verdict, found.guarantee) == ("compared", "approximate")
    assert found.digest != found.digest_retrained
    assert 0 < found.distance < 1


def other_loss(outputs, targets):
    return 1.01 * nn.functional.cross_entropy(outputs, targets)


def test_an_exact_run_of_another_program_fails(data, recipe_of, tmp_path):
    ob.fit(recipe_of(), data, tmp_path / "run", blocks=BLOCKS)
    # the fingerprint knows functions by their names
    other_loss.__qualname__ = nn.functional.cross_entropy.__qualname__
    run = ob.load(tmp_path / "run", recipe_of(loss=other_loss), data)
    found = audit(run)
    assert (found.verdict, found.passed) == ("failed", False)
    assert found.distance > 0


class Guarded(Dataset):
    """Raises on records that nobody may read."""

    def __init__(self, data):
        self.data, self.forbidden = data, set()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, record):
        assert record not in self.forbidden
        return self.data[record]


def test_no_erased_record_is_read(data, recipe_of, tmp_path):
    guarded = Guarded(data)
    guarded.forbidden = {11}
    run = ob.fit(recipe_of(), guarded, tmp_path / "run", blocks=BLOCKS, exclude=[11])
    guarded.forbidden = {11, 3, 5}
    run.forget(records=[3, 5], method="exact")
    assert audit(run).verdict == "passed"


def test_the_run_is_left_as_it_was(run, tmp_path):
    before = sorted(path.name for path in tmp_path.rglob("*"))
    audit(run)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_the_thread_count_is_the_run_s(run):
    with Environment("cpu", threads=2).entered():
        found = audit(run)
        assert torch.get_num_threads() == 2
    assert found.verdict == "passed"


def test_a_changed_environment_is_told(run):
    run.writer.facts = replace(run.facts, environment={**run.facts.environment, "torch": "1.0"})
    assert audit(run).changed_environment == {"torch": ("1.0", torch.__version__)}


def test_an_unfinished_erasure_is_not_audited(run):
    run.ledger.erasures.begin("forget", {"name": "exact"}, np.array([3]))
    with pytest.raises(RunUnfinished, match="carried out"):
        audit(run)


# Accuracy


class Wise(nn.Module):
    def forward(self, x):
        return nn.functional.one_hot(x.long(), 3).float()


def test_accuracy_is_the_share_of_right_answers():
    test = TensorDataset(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0]))
    assert accuracy(Wise(), test) == 0.75


@pytest.mark.parametrize(
    "test",
    [
        None,
        TensorDataset(torch.tensor([0, 1])),
        TensorDataset(torch.tensor([0, 1]), torch.tensor([0.0, 1.0])),
        TensorDataset(torch.tensor([0, 1]), torch.tensor([[0], [1]])),
        TensorDataset(torch.tensor([]), torch.tensor([])),
    ],
    ids=["no test", "no targets", "regression", "many targets", "empty"],
)
def test_what_is_no_classification_has_none(test):
    assert accuracy(Wise(), test) is None


def test_a_faulty_test_set_is_named_before_training(run):
    test = TensorDataset(torch.randn(3, 99), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TrainingFailed, match="test records"):
        audit(run, test)
