"""The examples: each runs as a script, and each keeps the promise of exact erasure as a project."""

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests import prepared
from tests.idx_files import write_digits
from tests.parquet_files import write_pictures

import obliviate as ob
from obliviate.errors import ExtraMissing, InvalidOption
from obliviate.recipe.project import ProjectFile

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
VARIANTS = {"mnist": ["records", "writers"], "cifar10": ["pictures"]}
CASES = [(path, data) for path in EXAMPLES for data in VARIANTS.get(path.stem, [""])]
BLOCKS = 3
RECORD = 17


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0].stem, case[1]]).strip("-"))
def case(request):
    return request.param


@pytest.fixture
def example(case):
    return case[0]


@pytest.fixture
def options(case, tmp_path):
    if case[1] == "pictures":
        return {"data": str(write_pictures(tmp_path / "cifar10")), "images": "120", "epochs": "5"}
    if not case[1]:
        return {}
    given = {"data": str(write_digits(tmp_path / "mnist"))}
    if case[1] == "writers":
        given |= {"writers": str(tmp_path / "writers.npz"), "epochs": "3"}
        np.savez(given["writers"], train=np.arange(400) // 9, test=np.zeros(60, dtype=int))
    return given


@pytest.fixture
def project(example, options):
    made = runpy.run_path(str(example))["project"](blocks=str(BLOCKS), **options)
    # few epochs: the promise does not depend on their number, the time does
    epochs = min(2, made.recipe.epochs)
    return replace(made, recipe=replace(made.recipe, epochs=epochs, repeats=1))


@pytest.mark.e2e
def test_runs_as_a_script(example, options, tmp_path):
    arguments = [f"--{name}={value}" for name, value in options.items()]
    words = ["python", example, "--run=run", f"--blocks={BLOCKS}", *arguments]
    done = prepared.run(words, cwd=tmp_path, strict=True)
    assert done.returncode == 0, done.stderr
    accuracies = [float(each) for each in re.findall(r"([\d.]+)%", done.stdout)]
    assert len(accuracies) == 3
    assert min(accuracies) > 20  # guessing a digit gives 10
    assert "settled: exact" in done.stdout


def test_as_a_project_forgets_exactly(project, tmp_path):
    assert project.blocks == BLOCKS
    run = fitted(project, tmp_path / "run")
    before = run.digest
    if project.subjects is not None:
        plan = run.preview(subjects=[project.subjects[RECORD]])
        assert RECORD in plan.records
    erasure = run.forget(records=[RECORD], method="exact")
    never = fitted(project, tmp_path / "never", exclude=[RECORD])
    assert erasure.digest == never.digest != before
    assert erasure.guarantee == "exact"


def fitted(project: ob.Project, folder: Path, exclude=()) -> ob.Run:
    return ob.fit(
        project.recipe,
        project.data,
        folder,
        blocks=project.blocks,
        subjects=project.subjects,
        exclude=exclude,
    )


def test_fewer_pictures_can_be_taken(tmp_path):
    folder = str(write_pictures(tmp_path / "cifar10", train=12, test=3))
    module = runpy.run_path(str(EXAMPLES[0].with_name("cifar10.py")))
    project = module["project"](data=folder, images="5")
    assert (len(project.data), len(project.test)) == (5, 3)
    image, label = project.data[4]
    assert (image.shape, label) == ((3, 32, 32), 4)
    assert {module["project"](data=folder).data[at][1] for at in range(12)} == set(range(10))


@pytest.mark.parametrize("missing", ["datasets", "PIL.Image"])
def test_what_pictures_take_is_named(tmp_path, monkeypatch, missing):
    folder = str(write_pictures(tmp_path / "cifar10", train=12, test=3))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExtraMissing, match=missing) as caught:
        ProjectFile(file=EXAMPLES[0].with_name("cifar10.py"), options={"data": folder})()
    assert "obliviate[datasets]" in caught.value.hint


def test_missing_pictures_are_named(tmp_path):
    with pytest.raises(InvalidOption, match="no file train") as caught:
        runpy.run_path(str(EXAMPLES[0].with_name("cifar10.py")))["project"](data=str(tmp_path))
    assert "train-*.parquet" in caught.value.hint
