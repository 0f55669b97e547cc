"""The laboratory on chains of epochs: a person's records are trained on in every one of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate import errors
from obliviate.lab import lab
from obliviate.lab.experiment import question_of, recipe_of
from obliviate.lab.measurements import Cells
from obliviate.recipe.subjects import Subjects
from obliviate.run.make import new_layout
from tests.test_lab import tiny_project

EPOCHS, BLOCKS, SEEDS, KEEP = 4, 5, 3, 3
FAST = f"deepobliviate:blocks=1,back={KEEP}"
SPOILT = np.arange(36, 40)


def layout(recipe):
    people = Subjects.of(subjects(), 90)
    return new_layout(recipe, 90, BLOCKS, people)


def subjects():
    return ["spoilt" if at in SPOILT else f"u{at // 4}" for at in range(90)]


def project_of(**options):
    """Ninety records of people who have four, one of whom has the wrong targets."""
    made = tiny_project()
    inputs = made.data.tensors[0]
    right = torch.arange(90) % 2
    right[SPOILT] = 1 - right[SPOILT]
    recipe = replace(made.recipe, epochs=EPOCHS, repeats=3, deal="subject", block_seed=5)
    data = TensorDataset(inputs, right)
    given = {"recipe": recipe, "data": data, "subjects": subjects(), "blocks": BLOCKS, "keep": KEEP}
    return replace(made, **given | options)


def asked(project, **changes):
    options = {"records": [], "subjects": ["spoilt"], "methods": [], "seeds": SEEDS}
    return question_of(project, **options | changes)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    return lab(project_of(), folder, subjects=["spoilt"], methods=[FAST], seeds=SEEDS), folder


def test_affected_are_the_positions_of_all_epochs(found):
    result = found[0]
    expected = layout(project_of().recipe).places(SPOILT).touched.tolist()
    assert list(result.affected) == expected
    assert len(expected) == EPOCHS
    assert result.blocks == EPOCHS * BLOCKS
    assert result.of("nothing").shift > result.of("exact").shift


def test_lags_count_from_the_last_position_to_the_end(found):
    result = found[0]
    last = result.affected[-1]
    assert result.fade.lags == tuple(range(1, EPOCHS * BLOCKS - last + 2))
    assert result.fade.erased[0] > 0


def test_a_method_goes_back_as_far_as_it_says_where_the_project_keeps_so_much(found):
    result = found[0]
    assert result.of(FAST).blocks_replayed == KEEP
    assert result.of("exact").blocks_replayed == EPOCHS * BLOCKS - result.affected[0] + 1
    rows = json.loads((found[1] / "lab.json").read_text())
    assert rows["blocks"] == EPOCHS * BLOCKS


def test_exact_replays_are_retrains_of_their_seeds(found, tmp_path):
    project, cells = project_of(), Cells(found[1])
    question = asked(project)
    facts = cells.read(question.unlearned(0, ob.Exact())).facts
    assert facts["blocks_total"] == EPOCHS * BLOCKS
    run = ob.fit(
        recipe_of(project.recipe, 0, is_original=True),
        project.data,
        tmp_path / "run",
        blocks=BLOCKS,
        subjects=project.subjects,
        exclude=question.erased,
    )
    assert run.digest == facts["digest"]


def test_controls_are_neighbours_of_the_last_epoch():
    question = asked(project_of())
    assert question.erased == tuple(SPOILT.tolist())
    members = layout(project_of().recipe).members(question.affected[-1])
    assert set(question.controls) == set(members.tolist()) - set(SPOILT.tolist())


def test_a_method_that_goes_back_further_than_is_kept_is_refused_at_once(tmp_path):
    with pytest.raises(errors.InvalidOption, match="3 epochs back") as caught:
        asked(project_of(keep=None), methods=[FAST])
    assert "the last 2 in full" in str(caught.value)
    assert "keep=3" in caught.value.hint
    assert asked(project_of(keep=None), methods=["deepobliviate:back=2"])
    with pytest.raises(errors.InvalidOption, match="keep"):
        asked(project_of(keep=9))


def test_what_is_kept_is_part_of_the_question():
    contexts = {asked(project_of(keep=keep)).context for keep in (None, 1, EPOCHS)}
    assert len(contexts) == 3
