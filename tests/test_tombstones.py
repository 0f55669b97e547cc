"""Tombstones: what was erased does not come back by being fed in again."""

import shutil
import sqlite3

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate import errors
from obliviate.ledger.tombstones import Tombstones
from tests.models import BLOCKS, Guarded, images, recipe, records_in


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
    assert other.ledger.records.excluded().tolist() == places
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
    assert run.ledger.records.excluded().tolist() == [72 + place]


def test_without_tombstones_nothing_is_kept_of_contents(tmp_path):
    run = ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS)
    run.forget(records=[3], method="exact")
    assert run.ledger.records.contents_of(run.ledger.records.erased()) == {}
    new, _ = again([3])
    assert (
        ob.fit(recipe(), new, tmp_path / "new", blocks=BLOCKS).ledger.records.excluded().tolist()
        == []
    )


def test_a_label_is_part_of_a_record(tmp_path):
    stones = tmp_path / "erased.sqlite"
    run = ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS, tombstones=stones)
    run.forget(records=[3], method="exact")
    pictures, labels = images().tensors
    mended = labels.clone()
    mended[3] = (labels[3] + 1) % 4
    data = TensorDataset(pictures, mended)
    other = ob.fit(recipe(), data, tmp_path / "other", blocks=BLOCKS, tombstones=stones)
    assert other.ledger.records.excluded().tolist() == []


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


class Augmented(Dataset):
    """Records with noise from the global generator, in some order."""

    def __init__(self, order):
        self.data, self.order = images(), list(order)

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        x, y = self.data[self.order[index]]
        return x + 0.1 * torch.randn(x.shape), y


@pytest.mark.parametrize("shift", [1, 5])
def test_augmented_records_are_known_at_any_place(tmp_path, shift):
    stones = tmp_path / "erased.sqlite"
    run = ob.fit(recipe(), Augmented(range(72)), tmp_path / "run", blocks=6, tombstones=stones)
    run.forget(records=[17], method="exact")
    moved = Augmented([*range(shift, 72), *range(shift)])
    other = ob.fit(recipe(), moved, tmp_path / "other", blocks=6, tombstones=stones)
    assert other.ledger.records.excluded().tolist() == [17 - shift]
    with pytest.raises(errors.Tombstoned, match=f"such as {17 - shift}"):
        ob.fit(recipe(), moved, tmp_path / "no", blocks=6, tombstones=stones, reingested="refuse")


class Restless(Augmented):
    """Noise from a generator of its own, which no seed reaches."""

    own = torch.Generator()

    def __getitem__(self, index):
        x, y = self.data[self.order[index]]
        return x + 0.1 * torch.randn(x.shape, generator=self.own), y


def test_what_could_not_be_recognised_is_said(tmp_path):
    run = ob.fit(recipe(), images(), tmp_path / "run", blocks=6, tombstones=tmp_path / "stones")
    with pytest.raises(errors.InvalidOption, match="read twice, gave two contents"):
        run.extend(Restless(range(72)), blocks=6)
    assert len(run.facts.parts) == 1


@pytest.fixture
def run(tmp_path):
    subjects = [f"u{record % 36}" for record in range(72)]
    stones = tmp_path / "mount" / "erased.sqlite"
    return ob.fit(
        recipe(), images(), tmp_path / "run", blocks=BLOCKS, subjects=subjects, tombstones=stones
    )


def stones_of(run):
    return run.folder.parent / "mount" / "erased.sqlite"


CALLS = {
    "forget": lambda run: run.forget(records=[18], method="exact"),
    "work": lambda run: run.work(everything=True),
    "settle": lambda run: run.settle(),
    "extend": lambda run: run.extend(images(12, seed=5), blocks=1),
    "repair": lambda run: run.verify(repair=True),
    "fit": lambda run: ob.fit(run.recipe, run.data, run.folder, blocks=BLOCKS),
}


def done_so_far(run):
    return (
        run.chain().entries,
        run.ledger.erasures.all(),
        run.ledger.requests.all(),
        run.ledger.run(),
    )


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("instead", ["nothing", "another file"])
def test_without_its_file_nothing_is_done(run, call, instead):
    run.forget(records=[17], method="exact")
    run.request(records=[18])
    before = done_so_far(run)
    mount = stones_of(run).parent
    mount.rename(mount.with_name("away"))
    if instead == "another file":
        Tombstones(stones_of(run)).close()
    again = ob.load(run.folder, recipe(), images())
    with pytest.raises(errors.TombstonesLost, match=r"erased\.sqlite is "):
        CALLS[call](again)
    assert not again.model.training  # what needs no file goes on
    assert done_so_far(run) == before
    assert stones_of(run).exists() == (instead == "another file")
    shutil.rmtree(mount, ignore_errors=True)
    mount.with_name("away").rename(mount)
    CALLS[call](again)


def test_a_run_keeps_to_its_file(run, tmp_path):
    with pytest.raises(errors.InvalidOption, match="was made with the tombstones in"):
        ob.fit(recipe(), images(), run.folder, blocks=BLOCKS, tombstones=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def changed(path, statement):
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE tombstones SET content = zeroblob(16) WHERE record = 17", "record 17 was changed"),
        ("UPDATE tombstones SET people = zeroblob(16)", "record 17 was changed"),
        ("UPDATE tombstones SET lifted = 'now'", "record 17 was changed"),
        ("DELETE FROM tombstones WHERE record = 17", "removed or added"),
        ("UPDATE tombstone_keys SET total = zeroblob(16)", "removed or added"),
    ],
)
def test_damage_to_the_file_is_named(run, tmp_path, statement, said):
    run.forget(records=[17], method="exact")
    changed(stones_of(run), statement)
    with pytest.raises(errors.TombstonesDamaged, match=said):
        ob.fit(recipe(), images(), tmp_path / "new", blocks=6, tombstones=stones_of(run))
    with pytest.raises(errors.TombstonesDamaged, match=said):
        run.extend(images(12, seed=5), blocks=1)
    assert not (tmp_path / "new").exists()


def twins():
    """Few contents, so that many people have equal records."""
    inputs = torch.arange(72).remainder(4)[:, None, None, None].expand(72, 1, 8, 8).float()
    return TensorDataset(inputs.contiguous(), torch.arange(72) % 4)


@pytest.mark.parametrize(
    ("recognised", "subjects", "expected"),
    [
        ("person", [f"u{record}" for record in range(72)], [17]),
        ("person", [(f"u{record}", f"v{record % 2}") for record in range(72)], range(1, 72, 4)),
        ("content", [f"u{record}" for record in range(72)], range(1, 72, 4)),
        ("person", None, range(1, 72, 4)),
    ],
    ids=["own", "shared", "content", "nobody is named"],
)
def test_equal_records_of_others(tmp_path, recognised, subjects, expected):
    options = {"blocks": 6, "subjects": subjects, "tombstones": tmp_path / "stones"}
    run = ob.fit(recipe(), twins(), tmp_path / "a", recognised=recognised, **options)
    run.forget(records=[17], method="exact")
    assert run.settle().number is None  # equal records in the run itself are left alone
    assert run.status().erased == 1
    other = ob.fit(recipe(), twins(), tmp_path / "b", recognised=recognised, **options)
    assert other.ledger.records.excluded().tolist() == list(expected)


def test_where_nobody_is_named_any_more_an_erased_record_is_still_known(run, tmp_path):
    run.forget(subjects=["u17"], method="exact")
    new = ob.fit(recipe(), images(), tmp_path / "b", blocks=6, tombstones=stones_of(run))
    assert new.ledger.records.excluded().tolist() == [17, 53]


@pytest.mark.parametrize("named", [{"subjects": [" U17"]}, {"records": [17, 53]}])
def test_tombstones_are_lifted(run, tmp_path, named):
    run.forget(subjects=["u17", "u18"], method="exact")
    assert run.lift(**named, reason="consent given again on paper") == 2
    new, places = again([18, 54])
    other = ob.fit(recipe(), new, tmp_path / "b", blocks=6, tombstones=stones_of(run))
    assert other.ledger.records.excluded().tolist() == places
    kept = sqlite3.connect(stones_of(run)).execute("SELECT lifted, reason FROM tombstones")
    assert [row[1] for row in kept if row[0]] == ["consent given again on paper"] * 2
    run.settle()
    assert run.status().erased == 4  # in this run they stay erased
    other.forget(records=again([17])[1], method="exact")  # and can be erased once more
    third = ob.fit(recipe(), new, tmp_path / "c", blocks=6, tombstones=stones_of(run))
    assert third.ledger.records.excluded().tolist() == sorted([*places, *again([17])[1]])


@pytest.mark.parametrize(
    ("named", "error", "said"),
    [
        ({}, errors.InvalidOption, "nobody is named"),
        ({"subjects": ["u5"]}, errors.InvalidOption, "no tombstone stands"),
        ({"records": [5]}, errors.InvalidOption, "no tombstone stands"),
        ({"records": [99]}, errors.UnknownRecord, "99"),
        ({"records": [17], "reason": ""}, errors.InvalidOption, "reason"),
    ],
)
def test_what_cannot_be_lifted(run, named, error, said):
    run.forget(records=[17], method="exact")
    with pytest.raises(error, match=said):
        run.lift(**({"reason": "consent"} | named))


def test_an_erasure_that_is_taken_back_leaves_no_tombstone(run, tmp_path):
    data = Guarded(images())
    broken = ob.load(run.folder, recipe(), data)
    data.forbidden = set(range(72)) - {17}
    with pytest.raises(errors.TrainingFailed):
        broken.forget(records=[17], method="exact")
    new = ob.fit(recipe(), images(), tmp_path / "b", blocks=6, tombstones=stones_of(run))
    assert new.ledger.records.excluded().tolist() == []


def put_back(run):
    """A run that was copied, erased from, and put back from the copy; its data is gone by then."""
    copy = run.folder.with_name("copy")
    run.ledger.close()
    shutil.copytree(run.folder, copy)
    gone = records_in(run, 2, 4)
    run.forget(records=gone, method="exact")
    digest = run.digest
    run.ledger.close()
    shutil.rmtree(run.folder)
    copy.rename(run.folder)
    data = Guarded(images())
    data.forbidden = set(gone)
    return ob.load(run.folder, recipe(), data), gone, digest


def test_a_copy_that_is_put_back_serves_nobody_who_was_erased(run):
    older, gone, digest = put_back(run)
    assert older.status().returned == 2
    with pytest.raises(errors.RunOutdated, match="holds 2 records that were erased before"):
        older.model  # noqa: B018
    assert older.verify().passed  # the blocks that hold them are skipped, not trained on
    assert older.settle().records == 2
    assert older.ledger.records.erased().tolist() == sorted(gone)
    assert older.digest == digest
    assert older.status().returned == 0
    assert not older.model.training


@pytest.mark.parametrize("call", ["forget", "work", "extend", "repair", "fit"])
def test_nor_does_it_train_on_them(run, call):
    older, gone, _ = put_back(run)
    older.request(records=[18])
    CALLS[call](older)
    again = ob.load(run.folder, recipe(), older.data)
    if call != "repair":
        assert set(gone) <= set(again.ledger.records.erased().tolist())
        assert again.status().returned == 0
    assert again.ledger.faults() == []
