"""Damage to a vault: found, named, and made good where that is possible."""

import pytest

import obliviate as ob
from obliviate.chain.inventory import held_by, remedies_of
from obliviate.errors import RunDamaged
from tests.models import BLOCKS, images, recipe, records_in

EVERY_OBJECT = [
    (block, role)
    for block in range(BLOCKS + 1)
    for role in ("update", "keyframe", "optimizer")
    if (block or role == "keyframe") and (role != "keyframe" or block in (0, 4, 6))
]


def made(folder, optimizer="momentum-carried"):
    return ob.fit(recipe("dropout-cnn", optimizer), images(), folder, blocks=BLOCKS)


def path_of(run, block, role):
    return run.vault.storage.path / getattr(run.chain().entries[block], role).key


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def evidence(run):
    return [(entry.block, entry.guarantee, entry.digest) for entry in run.chain().entries]


def test_the_objects_that_are_damaged_below_are_all_there_are(tmp_path):
    run = made(tmp_path)
    found = {(entry.block, role) for entry in run.chain().entries for role, _ in held_by(entry)}
    assert found == set(EVERY_OBJECT)


@pytest.mark.parametrize("how", [flip, lambda path: path.unlink()], ids=["flipped", "gone"])
def test_every_single_object_is_found_named_and_rebuilt(tmp_path, how):
    run = made(tmp_path)
    before = evidence(run)
    assert run.stock(check=True).lost == ()
    for block, role in EVERY_OBJECT:
        path = path_of(run, block, role)
        how(path)
        (lost,) = run.stock(check=True).lost
        assert (lost.block, lost.role, lost.key) == (block, role, path.name)
        assert path.name in lost.reason
        assert lost.remedy in ("remake", "join", "replay")
        found = run.verify([1], repair=True)
        assert found.rebuilt == (block,), found
        assert found.passed
        assert run.stock(check=True).lost == ()
    assert evidence(run) == before
    assert run.verify().passed
    assert set(run.vault) == run.ledger.objects.keys("live")


def test_everything_at_once_is_rebuilt_from_the_recipe_and_the_data(tmp_path):
    run = made(tmp_path)
    before = evidence(run)
    for path in run.vault.storage.path.iterdir():
        path.unlink()
    assert run.verify(repair=True).rebuilt == tuple(range(BLOCKS + 1))
    assert evidence(run) == before
    assert run.verify().passed
    record = records_in(run, 3)[0]
    assert run.forget(records=[record], method="exact").guarantee == "exact"


def test_swapped_objects_are_both_found(tmp_path):
    run = made(tmp_path)
    one, other = path_of(run, 2, "update"), path_of(run, 3, "update")
    spare = one.with_name("spare")
    one.rename(spare), other.rename(one), spare.rename(other)
    assert {lost.block for lost in run.stock(check=True).lost} == {2, 3}
    assert run.verify(repair=True).rebuilt == (2, 3)


def test_what_was_stitched_is_settled_instead(tmp_path):
    run = made(tmp_path, "sgd")
    run.forget(records=[records_in(run, 2)[0]], method=ob.DeepObliviate(blocks=2))
    assert run.guarantee == "approximate"
    flip(path_of(run, 5, "update"))
    (lost,) = run.stock(check=True).lost
    assert (lost.block, lost.remedy) == (5, "settle")
    found = run.verify(repair=True)
    assert not found.passed
    assert 5 in found.failed
    settled = run.settle()
    assert settled.guarantee == "exact"
    erased = run.ledger.records.erased()
    alone = ob.fit(
        recipe("dropout-cnn", "sgd"), images(), tmp_path / "alone", blocks=BLOCKS, exclude=erased
    )
    assert settled.digest == alone.digest
    assert run.verify().passed


def test_an_update_behind_a_keyframe_is_joined_even_where_it_was_stitched(tmp_path):
    run = made(tmp_path, "sgd")
    run.forget(records=[records_in(run, 2)[0]], method=ob.DeepObliviate(blocks=2))
    before = evidence(run)
    flip(path_of(run, 6, "update"))
    (lost,) = run.stock(check=True).lost
    assert (lost.block, lost.remedy) == (6, "join")
    assert run.verify([1], repair=True).rebuilt == (6,)
    assert evidence(run) == before


def test_other_data_rebuilds_nothing(tmp_path):
    run = made(tmp_path, "sgd")
    flip(path_of(run, 3, "update"))
    with_other = ob.load(tmp_path, recipe("dropout-cnn", "sgd"), images())
    inputs = with_other.data.tensors[0]
    inputs[records_in(run, 3)] += 1  # behind the back of the samples that are looked at
    found = with_other.verify([1], repair=True)
    assert found.rebuilt == ()
    assert "another than it was" in found.failed[3]
    with pytest.raises(RunDamaged):
        run.chain().state(3)


def test_a_damaged_run_says_what_to_do(tmp_path):
    run = made(tmp_path)
    flip(path_of(run, 6, "keyframe"))
    with pytest.raises(RunDamaged, match="not what was written") as damage:
        run.model  # noqa: B018
    assert "obliviate vault RUN --check" in damage.value.hint


def test_remedies_follow_from_what_is_left(tmp_path):
    entries = made(tmp_path).chain().entries
    assert remedies_of(entries, [(0, "keyframe"), (1, "update")]) == {
        (0, "keyframe"): "remake",
        (1, "update"): "replay",
    }
    assert set(remedies_of(entries, EVERY_OBJECT).values()) == {"remake", "replay"}
