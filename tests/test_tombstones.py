"""Tombstones: what was erased does not come back by being fed in again."""

import pytest
import torch
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate import errors
from tests.models import BLOCKS, Guarded, images, recipe


def again(records):
    """The same records, in another order and among others."""
    data, others = images(), images(10, seed=4)
    order = [*reversed(range(len(data)))]
    tensors = (
        torch.cat([other, mine[order]])
        for other, mine in zip(others.tensors, data.tensors, strict=True)
    )
    return TensorDataset(*tensors), sorted(10 + order.index(record) for record in records)


def test_an_erased_record_is_left_out_of_a_new_run(tmp_path):
    stones = tmp_path / "stones" / "erased.sqlite"
    data = Guarded(images())
    run = ob.fit(recipe(), data, tmp_path / "run", blocks=BLOCKS, tombstones=stones)
    run.forget(records=[3, 40], method="exact")
    data.forbidden = {3, 40}  # whoever asks for the content at this point comes too late
    run.request(records=[7])
    run.work(everything=True)
    new, places = again([3, 7, 40])
    other = ob.fit(recipe(), new, tmp_path / "other", blocks=BLOCKS, tombstones=stones)
    assert other.ledger.excluded().tolist() == places
    same = ob.fit(recipe(), new, tmp_path / "same", blocks=BLOCKS, exclude=places)
    assert other.digest == same.digest
    assert ob.fit(recipe(), new, tmp_path / "other", blocks=BLOCKS).digest == other.digest


def test_or_it_is_refused(tmp_path):
    stones = tmp_path / "erased.sqlite"
    run = ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS, tombstones=stones)
    run.forget(records=[3], method="exact")
    new, (place,) = again([3])
    with pytest.raises(errors.Tombstoned, match=f"1 of 82 records .* such as {place}"):
        ob.fit(
            recipe(), new, tmp_path / "other", blocks=BLOCKS, tombstones=stones, reingested="refuse"
        )
    assert not (tmp_path / "other").exists()


def test_an_extension_leaves_them_out_too(tmp_path):
    run = ob.fit(
        recipe(), images(), tmp_path / "run", blocks=BLOCKS, tombstones=tmp_path / "erased.sqlite"
    )
    run.forget(records=[3], method="exact")
    new, (place,) = again([3])
    run.extend(new, blocks=2)
    assert run.ledger.excluded().tolist() == [72 + place]


def test_without_tombstones_nothing_is_kept_of_contents(tmp_path):
    run = ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS)
    run.forget(records=[3], method="exact")
    assert run.ledger.people.contents_of(run.ledger.erased()) == []
    new, _ = again([3])
    assert ob.fit(recipe(), new, tmp_path / "new", blocks=BLOCKS).ledger.excluded().tolist() == []


def test_a_label_is_part_of_a_record(tmp_path):
    stones = tmp_path / "erased.sqlite"
    run = ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS, tombstones=stones)
    run.forget(records=[3], method="exact")
    pictures, labels = images().tensors
    mended = labels.clone()
    mended[3] = (labels[3] + 1) % 4
    data = TensorDataset(pictures, mended)
    other = ob.fit(recipe(), data, tmp_path / "other", blocks=BLOCKS, tombstones=stones)
    assert other.ledger.excluded().tolist() == []


def test_a_foreign_file_is_left_alone(tmp_path):
    stones = tmp_path / "notes.txt"
    stones.write_text("no database " * 200)
    with pytest.raises(errors.InvalidOption, match="no file of tombstones"):
        ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS, tombstones=stones)
    assert stones.read_text() == "no database " * 200
    assert not (tmp_path / "run").exists()


def test_a_choice_that_there_is_not(tmp_path):
    with pytest.raises(errors.InvalidOption, match="reingested is 'forgive'"):
        ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS, reingested="forgive")
