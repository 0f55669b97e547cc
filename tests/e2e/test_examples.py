"""The examples: each runs as a script, and each keeps the promise of exact erasure as a project."""

import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from tests import prepared
from tests.idx_files import write_digits

import obliviate as ob

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
BLOCKS = 3
RECORD = 17


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.stem)
def example(request):
    return request.param


@pytest.fixture
def options(example, tmp_path):
    if example.stem != "mnist":
        return {}
    return {"data": str(write_digits(tmp_path / "mnist"))}


@pytest.fixture
def project(example, options):
    made = runpy.run_path(str(example))["project"](blocks=str(BLOCKS), **options)
    # one epoch: the promise does not depend on their number, the time does
    return replace(made, recipe=replace(made.recipe, repeats=1))


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
