"""The experiments: what they plant is where they say, and every command of the grid can be run."""

import inspect
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.idx_files import write_digits
from tests.models import parts_of

import obliviate as ob
from obliviate.lab import lab
from obliviate.recipe.project import ProjectFile
from obliviate.training.layout import Layout

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PROJECTS = ["angles", "images", "purchases", "residual", "sequences"]
RECORDS, BLOCKS = 120, 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return str(write_digits(tmp_path_factory.mktemp("data") / "mnist", train=RECORDS, test=30))


@pytest.fixture(autouse=True)
def _neighbours(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:  # short names that other projects may have too
        if (EXPERIMENTS / f"{name}.py").exists():
            del sys.modules[name]


def project_of(name, pictures, **options):
    given = {"records": str(RECORDS), "blocks": str(BLOCKS), **options}
    if name != "purchases":
        given["data"] = pictures
    made = ProjectFile(file=EXPERIMENTS / f"{name}.py", options=given)()
    # one epoch: where things are planted does not depend on their number, the time does
    return replace(made, recipe=replace(made.recipe, repeats=1))


def erased_of(project):
    return np.flatnonzero(np.array(project.subjects) == "erased")


def blocks_of(project, records):
    recipe = project.recipe
    parts = parts_of(RECORDS, BLOCKS, seed=recipe.seed)
    layout = Layout(parts=parts, seed=recipe.seed, batch_size=1, repeats=1)
    return layout.places(records).touched.tolist()


@pytest.mark.e2e
@pytest.mark.parametrize(
    "name",
    [
        "images",
        *(pytest.param(each, marks=pytest.mark.slow) for each in PROJECTS if each != "images"),
    ],
)
def test_what_is_planted_can_be_forgotten(name, pictures, tmp_path):
    project = project_of(name, pictures, place="middle")
    records = erased_of(project)
    assert blocks_of(project, records) == [6]
    found = lab(project, tmp_path, subjects=["erased"], methods=["calibrated"], seeds=3)
    assert found.affected == (6,)
    assert found.records == len(records) == RECORDS // BLOCKS


@pytest.mark.parametrize("name", PROJECTS)
def test_mislabelled_records_have_another_target(name, pictures):
    wrong, right = (
        project_of(name, pictures, kind=kind).data for kind in ("mislabelled", "subject")
    )
    apart = wrong.tensors[1] != right.tensors[1]
    records = erased_of(project_of(name, pictures))
    assert set(torch.nonzero(apart.reshape(RECORDS, -1).any(dim=1)).flatten().tolist()) == set(
        records.tolist()
    )
    assert torch.equal(wrong.tensors[0], right.tensors[0])


def test_a_subject_has_records_in_several_blocks(pictures):
    project = project_of("images", pictures, kind="subject")
    assert blocks_of(project, erased_of(project)) == [2, 5, 9]


def test_a_backdoor_is_planted_and_probed(pictures):
    project = project_of("images", pictures, kind="backdoor", place="late")
    plain = project_of("images", pictures, kind="subject")
    records = erased_of(project)
    assert blocks_of(project, records) == [10, 11, 12]
    assert set(project.data.tensors[1][records].tolist()) == {0}
    changed = project.data.tensors[0] != plain.data.tensors[0]
    assert torch.nonzero(changed)[:, 2:].unique().tolist() == [4, 5, 6, 7]
    targets = project.probes["backdoor"].tensors[1]
    assert set(targets.tolist()) == {0}
    assert len(targets) == int((project.test.tensors[1] != 0).sum())


def test_every_command_of_the_grid_can_be_run():
    import grid

    experiments = grid.grid()
    assert len({each.name for each in experiments}) == len(experiments)
    for each in experiments:
        file = EXPERIMENTS / f"{each.project}.py"
        module = {"__name__": each.project}
        exec(compile(file.read_text(), file, "exec"), module)
        folders = {name: Path(name) for name in grid.FOLDERS}
        inspect.signature(module["project"]).bind(**each.given(folders))
        assert f"experiments/{each.project}.py labs/{each.name}" in each.command()


def test_another_kind_is_refused(pictures):
    with pytest.raises(ob.ObliviateError, match="kind is 'love'"):
        project_of("images", pictures, kind="love")
