"""Growing: new records in new blocks; old ids, old blocks and old erasures stay as they were."""

import multiprocessing
import os

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

import obliviate as ob
from obliviate import errors
from tests.models import BLOCKS, Guarded, images, recipe, records_in

OLD, NEW = images(), images(24, seed=9)
BOTH = TensorDataset(*(torch.cat(pair) for pair in zip(OLD.tensors, NEW.tensors, strict=True)))
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.kill_child", "tests.models", "obliviate"])


def made(**options):
    return recipe("dropout-cnn", "momentum-carried", "cosine", **options)


def grown(folder, exclude=(), left_out=()):
    run = ob.fit(made(), OLD, folder, blocks=BLOCKS, exclude=exclude)
    run.extend(NEW, blocks=2, exclude=left_out)
    return run


def test_new_records_are_trained_on_behind_the_old_ones(tmp_path):
    run = ob.fit(made(), OLD, tmp_path / "run", blocks=BLOCKS)
    before = run.chain().entries
    run.extend(NEW, blocks=2)
    status = run.status()
    assert (status.records, status.blocks, status.guarantee) == (96, BLOCKS + 2, "exact")
    assert run.chain().entries[: BLOCKS + 1] == before
    assert run.trainer.layout.members(BLOCKS + 1).min() >= 72
    assert run.verify().passed
    assert run.ledger.faults() == []


def test_about_the_old_size_is_taken_for_new_blocks(tmp_path):
    run = ob.fit(recipe(), OLD, tmp_path / "run", blocks=BLOCKS)
    run.extend(NEW)
    assert run.facts.blocks == BLOCKS + 2


@pytest.mark.parametrize("method", ["exact", ob.DeepObliviate(epsilon=9)])
def test_erasing_works_across_old_and_new(tmp_path, method):
    run = grown(tmp_path / "run")
    old, new = records_in(run, 3, BLOCKS + 1)
    run.forget(records=[old, new], method=method)
    run.settle()
    assert run.digest == grown(tmp_path / "never", [old], [new]).digest


def test_what_was_erased_before_stays_erased(tmp_path):
    data = Guarded(OLD)
    run = ob.fit(made(), data, tmp_path / "run", blocks=BLOCKS)
    (old,) = records_in(run, 1)
    run.forget(records=[old], method=ob.DeepObliviate(epsilon=9))
    data.forbidden = {old}
    run.extend(NEW, blocks=2)
    assert run.status().guarantee == "approximate"
    run.settle()
    assert run.digest == grown(tmp_path / "never", [old]).digest


def test_it_can_be_loaded_again_and_grow_again(tmp_path):
    grown(tmp_path / "run")
    run = ob.load(tmp_path / "run", made(), ConcatDataset([OLD, NEW]))
    more = images(12, seed=10)
    run.extend(more, blocks=1)
    assert [part.records for part in run.facts.parts] == [72, 24, 12]
    again = ob.load(tmp_path / "run", made(), ConcatDataset([BOTH, more]))
    assert again.verify().passed
    assert again.digest == run.digest


def test_people_are_found_in_old_and_new_records(tmp_path):
    subjects = [f"u{record % 10}" for record in range(96)]
    run = ob.fit(recipe(), OLD, tmp_path / "run", blocks=BLOCKS, subjects=subjects[:72])
    run.extend(NEW, blocks=2, subjects=subjects[72:])
    expected = tuple(record for record in range(96) if record % 10 == 4)
    assert run.preview(subjects=["u4"]).records == expected
    ob.fit(recipe(), BOTH, tmp_path / "run", blocks=BLOCKS, subjects=subjects)
    with pytest.raises(errors.InvalidOption, match="other subjects"):
        ob.fit(recipe(), BOTH, tmp_path / "run", blocks=BLOCKS, subjects=subjects[::-1])


def test_the_old_data_alone_is_another_dataset_now(tmp_path):
    grown(tmp_path / "run")
    with pytest.raises(errors.ForeignData, match="96 records, this dataset has 72"):
        ob.load(tmp_path / "run", made(), OLD)


def extend_and_die(folder, kill):
    from tests.kill_child import arm

    arm(None)
    run = ob.fit(made(), OLD, folder, blocks=BLOCKS)
    arm(kill)
    run.extend(NEW, blocks=2)
    os._exit(0)


@pytest.mark.parametrize("number", [3, 9, 15, 19, 20])
@pytest.mark.parametrize("side", ["before", "after"])
def test_the_same_script_goes_on_where_it_was_killed(tmp_path, number, side):
    child = CONTEXT.Process(
        target=extend_and_die, args=(tmp_path / "run", ("commit", number, side))
    )
    child.start()
    child.join(120)
    assert child.exitcode == -9
    whole = grown(tmp_path / "whole")
    try:
        run = ob.load(tmp_path / "run", made(), OLD)
    except errors.ForeignData:  # it was killed behind its last commit
        run = ob.load(tmp_path / "run", made(), BOTH)
    else:
        if run.facts.blocks > BLOCKS:
            with pytest.raises(errors.RunUnfinished, match="extend"):
                run.forget(records=[1])
            with pytest.raises(errors.ForeignData, match="these are 5"):
                run.extend(Subset(NEW, range(5)))
            with pytest.raises(errors.ForeignData, match="other records"):
                run.extend(images(24, seed=77))
        run = ob.fit(made(), OLD, tmp_path / "run", blocks=BLOCKS)
        run.extend(NEW, blocks=2)
    assert run.digest == whole.digest
    assert run.ledger.faults() == []
    assert len(run.facts.parts) == 2


def test_an_interrupted_extension_goes_on_with_all_the_data_too(tmp_path):
    child = CONTEXT.Process(target=extend_and_die, args=(tmp_path / "run", ("commit", 19, "after")))
    child.start()
    child.join(120)
    run = ob.load(tmp_path / "run", made(), BOTH)
    run.extend(NEW, blocks=2)
    assert run.digest == grown(tmp_path / "whole").digest


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blocks": 0}, "blocks is 0"),
        ({"blocks": 25}, "blocks is 25"),
        ({"subjects": ["u1"]}, "1 subjects for 24 records"),
        ({"exclude": [5]}, "knows already"),
        ({"exclude": [96]}, "not in the dataset"),
    ],
    ids=["none", "many", "subjects", "old", "unknown"],
)
def test_wrong_extensions_change_nothing(tmp_path, options, said):
    run = ob.fit(recipe(), OLD, tmp_path / "run", blocks=BLOCKS)
    digest = run.digest
    with pytest.raises(errors.ObliviateError, match=said):
        run.extend(NEW, **options)
    assert run.facts.parts == ob.load(tmp_path / "run", recipe(), OLD).facts.parts
    assert run.digest == digest


def test_another_process_that_opened_the_run_before_is_told(tmp_path):
    run = ob.fit(recipe(), OLD, tmp_path / "run", blocks=BLOCKS)
    other = ob.load(tmp_path / "run", recipe(), OLD)
    run.extend(NEW, blocks=2)
    with pytest.raises(errors.ForeignData, match="extended by another process"):
        other.forget(records=[1], method="exact")
    np.testing.assert_array_equal(run.ledger.erased(), [])
