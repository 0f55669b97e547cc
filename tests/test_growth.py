"""Growing: new records in new blocks; old ids, old blocks and old erasures stay as they were."""

import os

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

import obliviate as ob
from obliviate import errors
from tests.models import BLOCKS, Guarded, images, recipe, records_in
from tests.prepared import PROCESSES

OLD, NEW = images(), images(24, seed=9)
BOTH = TensorDataset(*(torch.cat(pair) for pair in zip(OLD.tensors, NEW.tensors, strict=True)))


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


def test_the_old_data_alone_can_only_be_extended_by_the_same_records_again(tmp_path):
    digest = grown(tmp_path / "run").digest
    with pytest.raises(errors.ForeignData, match="96 records, this dataset has 71"):
        ob.load(tmp_path / "run", made(), Subset(OLD, range(71)))
    run = ob.load(tmp_path / "run", made(), OLD)
    with pytest.raises(errors.ForeignData, match="old records followed by the new"):
        run.forget(records=[1])
    with pytest.raises(errors.ForeignData, match="old records followed by the new"):
        run.verify()
    with pytest.raises(errors.ForeignData, match="other records"):
        run.extend(images(24, seed=77))
    assert run.extend(NEW, blocks=2).records == 24
    assert run.digest == digest
    assert run.verify().passed


def extend_and_die(folder, kill):
    from tests.kill_child import arm

    arm(None)
    run = ob.fit(made(), OLD, folder, blocks=BLOCKS)
    arm(kill)
    run.extend(NEW, blocks=2)
    os._exit(0)


@pytest.mark.parametrize("number", [3, 12, 21, 22, 23])
@pytest.mark.parametrize("side", ["before", "after"])
def test_the_same_script_goes_on_where_it_was_killed(tmp_path, number, side):
    child = PROCESSES.Process(
        target=extend_and_die, args=(tmp_path / "run", ("commit", number, side))
    )
    child.start()
    child.join(120)
    assert child.exitcode == -9
    whole = grown(tmp_path / "whole")
    run = ob.load(tmp_path / "run", made(), OLD)
    if run.facts.blocks > BLOCKS:
        with pytest.raises(errors.ForeignData, match="old records followed by the new"):
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
    half_extended(tmp_path / "run")
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
    with pytest.raises(errors.ForeignData, match="extended, or ended early, by another process"):
        other.forget(records=[1], method="exact")
    np.testing.assert_array_equal(run.ledger.records.erased(), [])


class Spoilt(Dataset):
    """New records, one of which is as it should not be."""

    def __init__(self, kind, place=17):
        self.kind, self.place = kind, place

    def __len__(self):
        return len(NEW)

    def __getitem__(self, index):
        x, y = NEW[index]
        if index != self.place:
            return x, y
        if self.kind == "unreadable":
            raise OSError("the photo is broken")
        return {
            "nan": (x * float("nan"), y),
            "shape": (x[:, :7], y),
            "label": (x, y + 4),
            "dtype": (x, y.float()),
        }[self.kind]


@pytest.mark.parametrize("kind", ["nan", "shape", "label", "dtype", "unreadable"])
def test_a_record_that_cannot_be_trained_on_leaves_the_run_as_it_was(tmp_path, kind):
    run = ob.fit(made(), OLD, tmp_path / "run", blocks=BLOCKS)
    before = run.digest, run.facts.parts, run.chain().entries
    with pytest.raises(errors.ObliviateError, match="89"):
        run.extend(Spoilt(kind), blocks=2)
    assert (run.digest, run.facts.parts, run.chain().entries) == before
    again = ob.load(tmp_path / "run", made(), OLD)
    (record,) = records_in(again, 2)
    again.forget(records=[record], method="exact")
    again.extend(Spoilt(kind), blocks=2, exclude=[89])
    assert again.digest == grown(tmp_path / "never", [record], [89]).digest
    assert again.ledger.faults() == []


class Failing(TensorDataset):
    """New records that cannot be read for the moment."""

    is_away = False

    def __getitem__(self, index):
        if self.is_away:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


def half_extended(folder, **options):
    """A run whose extension failed in its second block."""
    run = ob.fit(made(), OLD, folder, blocks=BLOCKS, **options)
    data = Failing(*NEW.tensors)

    def failing():
        for event in run.extend.events(data, blocks=2):
            data.is_away = event.task == "fit" and event.block == event.done == BLOCKS + 1

    with pytest.raises(errors.TrainingFailed, match=r"block 8.*the disk is gone"):
        failing()
    return run


def test_an_extension_that_failed_midway_serves_and_forgets(tmp_path):
    run = half_extended(tmp_path / "run")
    status = run.status()
    assert (status.blocks_done, status.blocks, status.guarantee) == (
        BLOCKS + 1,
        BLOCKS + 2,
        "exact",
    )
    assert not run.model.training
    run = ob.load(tmp_path / "run", made(), BOTH)
    old, new, ahead = records_in(run, 1, BLOCKS + 1, BLOCKS + 2)
    fast = run.forget(records=[old, new], method=ob.DeepObliviate(epsilon=9))
    assert fast.guarantee == "approximate"
    run.request(records=[ahead])
    run.work(everything=True)
    assert {facts.state for facts in run.ledger.requests.all()} == {"settled"}
    assert run.verify().passed
    run.extend(NEW, blocks=2)
    assert run.digest == grown(tmp_path / "never", [old], [new, ahead]).digest
    assert run.status().guarantee == "exact"


def test_it_goes_on_with_mended_records_or_without_them(tmp_path):
    run = half_extended(tmp_path / "run")
    trained, ahead, other = *records_in(run, BLOCKS + 1), *records_in(run, BLOCKS + 2, each=2)
    pictures, labels = (tensor.clone() for tensor in NEW.tensors)
    pictures[ahead - 72] += 1
    mended = TensorDataset(pictures, labels)
    with pytest.raises(errors.InvalidOption, match="was trained on already"):
        run.extend(mended, exclude=[trained])
    run.extend(mended, exclude=[other])
    whole = ob.fit(made(), OLD, tmp_path / "whole", blocks=BLOCKS)
    whole.extend(mended, blocks=2, exclude=[other])
    assert run.digest == whole.digest
    assert run.ledger.faults() == []
    assert ob.load(tmp_path / "run", made(), ConcatDataset([OLD, mended])).digest == run.digest


SUBJECTS = [f"u{record % 12}" for record in range(96)]


def waited(folder, **request):
    run = ob.fit(recipe(), OLD, folder, blocks=BLOCKS, subjects=SUBJECTS[:72])
    run.request(**request)
    return run


@pytest.mark.parametrize("request_of", [{"subjects": ["u5"]}, {"records": range(5, 72, 12)}])
def test_new_records_of_somebody_who_waits_are_left_out(tmp_path, request_of):
    run = waited(tmp_path / "run", **request_of)
    with pytest.raises(errors.RequestWaits, match=r"2 new records .* such as 77"):
        run.extend(NEW, blocks=2, subjects=SUBJECTS[72:], requested="refuse")
    assert run.extend(NEW, blocks=2, subjects=SUBJECTS[72:]).requested == (77, 89)
    run.work(everything=True)
    with pytest.raises(errors.UnknownSubject, match="none any more"):
        run.preview(subjects=["u5"])
    gone = range(5, 72, 12)
    never = ob.fit(
        recipe(), OLD, tmp_path / "never", blocks=BLOCKS, subjects=SUBJECTS[:72], exclude=gone
    )
    never.extend(NEW, blocks=2, subjects=SUBJECTS[72:], exclude=[77, 89])
    assert run.digest == never.digest


def test_who_asked_about_some_records_keeps_the_others(tmp_path):
    run = waited(tmp_path / "run", records=[5, 17])
    assert run.extend(NEW, blocks=2, subjects=SUBJECTS[72:]).requested == ()


def test_new_records_of_somebody_who_was_erased_are_new_data(tmp_path):
    run = waited(tmp_path / "run", subjects=["u5"])
    run.work(everything=True)
    assert run.extend(NEW, blocks=2, subjects=SUBJECTS[72:]).requested == ()
    assert run.forget(subjects=["u5"], method="exact").records == 2


def test_who_asks_while_the_first_new_block_is_trained_is_forgotten_whole(tmp_path):
    run = ob.fit(recipe(), OLD, tmp_path / "run", blocks=BLOCKS, subjects=SUBJECTS[:72])
    other = ob.load(tmp_path / "run", recipe(), OLD)
    events = run.extend.events(NEW, blocks=2, subjects=SUBJECTS[72:])
    next(event for event in events if event.task == "try the records")
    other.request(subjects=["u5"])
    for _ in events:
        pass
    run.work(everything=True)
    with pytest.raises(errors.UnknownSubject, match="none any more"):
        run.preview(subjects=["u5"])
    assert set(run.ledger.records.erased()) == {*range(5, 96, 12)}
