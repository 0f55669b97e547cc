"""Making a run: all that is checked before the first block, and nothing in the way of others."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import Dataset

import obliviate as ob
from obliviate.errors import ForeignRecipe, InvalidOption, InvalidRecipe, ObliviateError, RunDamaged
from obliviate.states.update import captured, digest


class Meeting(Dataset):
    """A dataset during whose first reading another process makes a run in the same place."""

    def __init__(self, data, meanwhile) -> None:
        self.data, self.meanwhile = data, meanwhile

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index):
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        return self.data[index]


def test_a_run_that_another_process_made_meanwhile_is_kept(tmp_path, recipe_of, data):
    """Trying the first step takes a while; it must not end in writing over a finished run."""
    folder, made = tmp_path / "run", []

    def meanwhile():
        run = ob.fit(recipe_of(seed=1), data, folder, blocks=4)
        run.forget(records=[5], method="exact")
        made.append(run.digest)

    with pytest.raises(ForeignRecipe):
        ob.fit(recipe_of(seed=2), Meeting(data, meanwhile), folder, blocks=4)
    run = ob.load(folder, recipe_of(seed=1), data)
    assert run.digest == made[0]
    assert run.status().erased == 1
    assert run.verify().passed


def test_an_erasure_of_a_run_that_was_made_meanwhile_is_not_undone(tmp_path, recipe_of, data):
    """Here both processes make the same run: what the first one erased must stay erased."""
    folder = tmp_path / "run"

    def meanwhile():
        ob.fit(recipe_of(), data, folder, blocks=4).forget(records=[5], method="exact")

    run = ob.fit(recipe_of(), Meeting(data, meanwhile), folder, blocks=4)
    assert run.status().erased == 1
    assert run.digest == ob.fit(recipe_of(), data, tmp_path / "o", blocks=4, exclude=[5]).digest
    assert digest(captured(run.model.state_dict())) == run.digest
    assert run.verify().passed


@pytest.mark.parametrize(
    ("blocks", "fault"),
    [
        (0, "between 1 and 40"),
        (41, "between 1"),
        (-1, "between 1"),
        (2.0, "must be an int"),
        ("4", "must be an int"),
        (True, "must be an int"),
        (None, "must be an int"),
    ],
)
def test_an_impossible_number_of_blocks_is_refused(tmp_path, recipe_of, data, blocks, fault):
    with pytest.raises(InvalidRecipe, match=fault):
        ob.fit(recipe_of(), data, tmp_path / "run", blocks=blocks)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("subjects", "fault"),
    [
        ("ann", "one entry for each record"),
        (["ann"] * 39, "39 subjects for 40 records"),
        (["ann"] * 39 + [7.5], "holds 7.5 for record 39"),
        (["ann"] * 39 + [{"ann": 1}], "holds {'ann': 1}"),
    ],
)
def test_impossible_subjects_are_refused(tmp_path, recipe_of, data, subjects, fault):
    with pytest.raises(InvalidRecipe, match=fault):
        ob.fit(recipe_of(), data, tmp_path / "run", blocks=4, subjects=subjects)
    assert list(tmp_path.iterdir()) == []


def test_all_faults_are_named_at_once(tmp_path, recipe_of, data):
    with pytest.raises(InvalidRecipe) as refusal:
        ob.fit(recipe_of(), data, tmp_path / "run", blocks=0, subjects=["ann"])
    assert "blocks is 0" in refusal.value.message
    assert "1 subjects for 40 records" in refusal.value.message


def test_subjects_may_come_as_an_array(tmp_path, recipe_of, data):
    subjects = np.array([f"u{at % 3}" for at in range(40)])
    run = ob.fit(recipe_of(), data, tmp_path / "run", blocks=4, subjects=subjects)
    assert run.preview(subjects=["u1"]).records == tuple(range(1, 40, 3))


def test_data_without_an_index_is_refused(tmp_path, recipe_of):
    with pytest.raises(InvalidRecipe, match="map-style"):
        ob.fit(recipe_of(), iter([1, 2]), tmp_path / "run", blocks=1)


def test_no_data_is_refused(tmp_path, recipe_of):
    with pytest.raises(ObliviateError):
        ob.fit(recipe_of(), [], tmp_path / "run", blocks=1)
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_no_folder(recipe_of, data):
    with pytest.raises(InvalidOption, match="is a URL"):
        ob.fit(recipe_of(), data, "s3://bucket/run", blocks=4)


def test_a_folder_of_other_things_is_left_alone(tmp_path, recipe_of, data):
    (tmp_path / "thesis.tex").write_text("my only copy")
    with pytest.raises(InvalidOption, match=r"thesis\.tex"):
        ob.fit(recipe_of(), data, tmp_path, blocks=4)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path, recipe_of, data):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InvalidOption, match="is a file"):
        ob.fit(recipe_of(), data, tmp_path / "run", blocks=4)
    assert (tmp_path / "run").read_text() == "a file"


def test_a_vault_whose_ledger_is_gone_is_not_trained_over(tmp_path, recipe_of, data):
    run = ob.fit(recipe_of(), data, tmp_path / "run", blocks=4)
    run.ledger.close()
    (tmp_path / "run" / "ledger.sqlite").unlink()
    before = {path.name for path in (tmp_path / "run" / "vault").iterdir()}
    with pytest.raises(RunDamaged, match="its ledger is gone"):
        ob.fit(recipe_of(), data, tmp_path / "run", blocks=4)
    assert {path.name for path in (tmp_path / "run" / "vault").iterdir()} == before


def test_one_record_and_one_block_make_a_run(tmp_path, recipe_of, data):
    one = ob.fit(recipe_of(), [data[0]], tmp_path / "one", blocks=1)
    assert one.guarantee == "exact"
    each = ob.fit(recipe_of(), data, tmp_path / "each", blocks=40)
    assert each.verify(blocks=[1, 40]).passed
