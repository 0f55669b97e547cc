"""Identity: another recipe or other data are noticed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate.errors import ForeignData, ForeignRecipe
from obliviate.ledger import RunFacts
from obliviate.run.fingerprint import SAMPLED_RECORDS, check_recipe, content_hashes, sampled
from obliviate.run.make import new_trainer
from tests.models import parts_of

NOBODY = np.array([], dtype=np.int64)
SECRET = bytes(32)


class Guarded(Dataset):
    """A dataset that raises when it is asked for a forbidden record."""

    def __init__(self, data, forbidden=()):
        self.data, self.forbidden = data, set(forbidden)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        assert index not in self.forbidden, f"record {index} was read"
        return self.data[index]


def changed(data, record, inputs=None, target=None):
    """The data with one record changed."""
    features, targets = (tensor.clone() for tensor in data.tensors)
    if inputs is not None:
        features[record] = inputs
    if target is not None:
        targets[record] = target
    return TensorDataset(features, targets)


@pytest.fixture
def hashes_of(recipe_of):
    """A function that hashes records of some data."""

    def hashes(data, ids=(1, 2), secret=SECRET):
        return content_hashes(new_trainer(recipe_of(), data, 40, 4), ids, secret)

    return hashes


# Data


def test_a_few_records_are_looked_at_and_none_that_is_left_out():
    left_out = np.arange(0, 100, 2)
    found = sampled(100, seed=1, left_out=left_out)
    assert len(set(found.tolist())) == SAMPLED_RECORDS
    assert not set(found.tolist()) & set(left_out.tolist())
    assert found.tolist() == sampled(100, seed=1, left_out=left_out).tolist()
    assert found.tolist() != sampled(100, seed=2, left_out=left_out).tolist()


def test_of_few_records_all_are_looked_at():
    assert sorted(sampled(3, seed=1, left_out=NOBODY).tolist()) == [0, 1, 2]
    assert sampled(2, seed=1, left_out=np.array([0, 1])).tolist() == []


def test_a_content_hash_is_of_input_and_target(data, hashes_of):
    original = hashes_of(data)
    assert set(original) == {1, 2}
    assert hashes_of(data) == original
    assert hashes_of(Guarded(data)) == original
    for other in (changed(data, 1, inputs=9.0), changed(data, 1, target=0)):
        assert hashes_of(other)[1] != original[1]
        assert hashes_of(other)[2] == original[2]


def test_a_content_hash_sees_dtype_and_shape(data, hashes_of):
    inputs, targets = data.tensors
    original = hashes_of(data)[1]
    assert hashes_of(TensorDataset(inputs.view(torch.int32), targets))[1] != original
    assert hashes_of(TensorDataset(inputs.reshape(40, 2, 2), targets))[1] != original


def test_equal_records_have_different_hashes_and_so_have_two_runs(data, hashes_of):
    """So that hashes tell nothing of who resembles whom."""
    same = changed(changed(data, 1, 0.0, 0), 2, 0.0, 0)
    assert hashes_of(same)[1] != hashes_of(same)[2]
    assert hashes_of(same)[1] != hashes_of(same, secret=b"x" * 32)[1]


@pytest.fixture
def run(tmp_path, recipe_of, data):
    return ob.fit(recipe_of(), data, tmp_path / "run", blocks=4)


def test_data_of_another_length_is_refused(run, recipe_of, data):
    shorter = TensorDataset(*(tensor[:-1] for tensor in data.tensors))
    with pytest.raises(ForeignData, match="40 records, this dataset has 39"):
        ob.load(run.folder, recipe_of(), shorter)


def test_other_data_is_refused_with_a_record_that_differs(run, recipe_of, data):
    looked_at = min(run.facts.samples)
    with pytest.raises(ForeignData, match=f"1 differ, such as record {looked_at}"):
        ob.load(run.folder, recipe_of(), changed(data, looked_at, target=0, inputs=0.0))
    reordered = TensorDataset(*(tensor.flip(0) for tensor in data.tensors))
    with pytest.raises(ForeignData, match="in the same order") as refusal:
        ob.load(run.folder, recipe_of(), reordered)
    assert f"{SAMPLED_RECORDS} differ" in refusal.value.message


def test_erased_records_are_not_looked_at(run, recipe_of, data):
    gone = list(run.facts.samples)[:3]
    run.forget(records=gone, method="exact")
    again = ob.load(run.folder, recipe_of(), Guarded(data, gone))
    assert again.digest == run.digest
    blanked = data
    for record in gone:
        blanked = changed(blanked, record, inputs=0.0, target=0)
    assert ob.load(run.folder, recipe_of(), blanked).digest == run.digest


def test_other_data_is_refused_after_all_that_was_looked_at_is_erased(run, recipe_of, data):
    run.forget(records=list(run.facts.samples), method="exact")
    ob.load(run.folder, recipe_of(), data)
    other = TensorDataset(data.tensors[0] + 1, data.tensors[1])
    with pytest.raises(ForeignData):
        ob.load(run.folder, recipe_of(), other)


# Recipes

OTHERS = {
    "model": {"model": partial(nn.Linear, 4, 3, bias=False)},
    "optimizer": {"optimizer": partial(torch.optim.SGD, lr=0.2)},
    "loss": {"loss": nn.functional.multi_margin_loss},
    "step": {"step": lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])},
    "schedule": {"schedule": lambda step, total: 1 - step / total},
    "batch_size": {"batch_size": 5},
    "repeats": {"repeats": 2},
    "seed": {"seed": 4},
    "optimizer_state": {"optimizer_state": "fresh"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_recipe_is_refused_by_the_name_of_what_differs(name, tmp_path, recipe_of, data):
    facts = RunFacts(
        parts=parts_of(40, 4),
        smallest_batch=1,
        fingerprint=new_trainer(recipe_of(), data, 40, 4).fingerprint(),
        environment={},
        subject_key=SECRET,
        content_key=SECRET,
    )
    check_recipe(facts, new_trainer(recipe_of(), data, 40, 4).fingerprint())
    other = new_trainer(recipe_of(**OTHERS[name]), data, 40, 4).fingerprint()
    with pytest.raises(ForeignRecipe, match=f"{name}: the run has ") as refusal:
        check_recipe(facts, other)
    assert "new run in another folder" in refusal.value.hint


def test_every_difference_is_named_at_once(data, recipe_of):
    fingerprint = new_trainer(recipe_of(), data, 40, 4).fingerprint()
    facts = RunFacts(
        parts=parts_of(40, 4),
        smallest_batch=1,
        fingerprint=fingerprint,
        environment={},
        subject_key=SECRET,
        content_key=SECRET,
    )
    with pytest.raises(ForeignRecipe) as refusal:
        check_recipe(facts, fingerprint | {"seed": "9", "repeats": "7" * 500})
    assert "the run has 3, this recipe has 9" in refusal.value.message
    assert "repeats: the run has 1" in refusal.value.message
    assert len(refusal.value.message) < 400
    with pytest.raises(ForeignRecipe, match="seed: the run has None"):
        check_recipe(replace(facts, fingerprint={}), fingerprint)


def test_what_does_not_bear_on_the_result_may_differ(data, recipe_of):
    """The same declarations made anew, and loading in other processes."""
    one = new_trainer(recipe_of(), data, 40, 4).fingerprint()
    assert new_trainer(recipe_of(), Guarded(data), 40, 4).fingerprint() == one
    assert new_trainer(recipe_of(workers=2), data, 40, 4).fingerprint() == one
