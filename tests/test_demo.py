"""The demo: it tells the story to its end, and its proof can fail."""

import io
from collections import Counter
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate.cli import demo
from obliviate.cli.story import PersonRow
from obliviate.datasets import digits
from obliviate.errors import InvalidOption
from obliviate.recipe.subjects import Subjects
from obliviate.run.make import new_layout
from tests.test_cli import ask, call

BLOCKS = 10


@pytest.fixture
def small(data, recipe_of):
    """A project of forty records and two epochs that has the demo's two people."""
    subjects = [f"user-{record // 2}" for record in range(40)]
    subjects[3], subjects[14], subjects[25] = demo.FIRST, demo.SECOND, demo.SECOND
    recipe = recipe_of(epochs=2)
    return ob.Project(recipe=recipe, data=data, test=data, subjects=subjects, blocks=BLOCKS)


@pytest.fixture
def referred(small):
    inputs, targets = small.data.tensors
    return replace(small, reference=TensorDataset(inputs + 0.5, targets))


class Drifting:
    """A loss that changes once it has been called so often: no replay gives the same again."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self, outputs, targets):
        self.left -= 1
        return (1.0 if self.left > 0 else 1.5) * nn.functional.cross_entropy(outputs, targets)


@pytest.fixture
def drifting(small, recipe_of):
    layout = new_layout(small.recipe, 40, BLOCKS, Subjects.of(small.subjects, 40))
    loss = Drifting(2 + layout.total_steps(1))  # two steps to try the recipe, then the chain's
    return ob.Project(**(vars(small) | {"recipe": recipe_of(epochs=2, loss=loss)}))


def told(folder, project):
    screen = io.StringIO()
    story = demo.demonstrate(folder, Console(file=screen, width=120), project)
    return story, screen.getvalue()


def test_the_story(small, tmp_path):
    story, said = told(tmp_path / "demo", small)
    assert story.is_equal
    original, one, two, settled, retrained = story.rows
    assert settled.digest == retrained.digest != original.digest
    assert (original.is_equal, settled.is_equal, retrained.is_equal) == (False, True, None)
    assert (original.guarantee, settled.guarantee) == ("exact", "exact")
    assert original.blocks == retrained.blocks == 2 * BLOCKS
    assert 2 <= one.blocks <= 2 * BLOCKS
    assert two.speedup > 0
    for row in story.rows:
        assert row.digest[:12] in said
    assert "2 epochs of 10 blocks" in said
    assert demo.FIRST in said
    assert demo.SECOND in said
    assert "\x1b" not in said
    assert story.report.read_text().startswith("<!DOCTYPE html>")
    assert story.curve.read_bytes().startswith(b"\x89PNG")


def test_without_references_nothing_is_expected(small, tmp_path):
    story, said = told(tmp_path / "demo", small)
    assert [(row.person, row.records) for row in story.people] == [
        (demo.FIRST, 1),
        (demo.SECOND, 2),
    ]
    assert all(row.target is None and row.settled is not None for row in story.people)
    assert "as was expected" not in said


def test_with_references_it_says_what_is_expected(referred, tmp_path):
    story, said = told(tmp_path / "demo", referred)
    assert story.is_equal
    for row in story.people:
        assert f"{row.before:.2f} before and is {row.after:.2f} now" in " ".join(said.split())
        assert f"{row.settled:.2f}" in said
        if row.target is None:
            assert "was not good enough" in said
        else:
            assert f"{row.target:.2f} ({row.low:.2f} to {row.high:.2f})" in said


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (0.5, 0.0, "hardly a trace"),
        (4.0, 0.5, "do so no longer"),
        (4.0, 3.0, "stand out still"),
        (4.0, -2.0, "more was taken off"),
    ],
)
def test_the_words_for_how_it_ended(before, after, words):
    row = PersonRow(
        person="a", records=2, before=before, target=0.0, low=-1.0, high=1.0, after=after
    )
    assert words in str(row).lower()
    assert "expected" not in str(replace(row, target=None))


def test_the_proof_can_fail(drifting, tmp_path):
    story, said = told(tmp_path / "demo", drifting)
    assert not story.is_equal
    assert "FAILED" in said


def test_a_failed_proof_is_a_failed_command(drifting, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "project", lambda: drifting)
    answer = ask("demo", "--folder", tmp_path / "demo", code=1)
    assert answer["is_equal"] is False


def test_the_command(small, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "project", lambda: small)
    monkeypatch.chdir(tmp_path)
    assert "equals" in call("demo").stdout
    again = ask("demo")
    assert again["is_equal"] is True
    assert (tmp_path / "demo" / "report.html").exists()
    assert len(again["rows"]) == 5


@pytest.mark.parametrize("name", ["letter.txt", "report.html"])
def test_other_things_are_left_alone(name, small, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InvalidOption, match="other things"):
        told(tmp_path, small)
    with pytest.raises(InvalidOption, match="is a file"):
        told(tmp_path / name, small)
    assert (tmp_path / name).read_text() == "mine"


def test_another_run_is_left_alone(small, tmp_path):
    run = ob.fit(small.recipe, small.data, tmp_path / "demo" / "run", blocks=4)
    with pytest.raises(InvalidOption, match="another project"):
        told(tmp_path / "demo", small)
    assert ob.load(run.folder, small.recipe, small.data).digest == run.digest


def test_the_people_of_the_digits():
    project = demo.project()
    counts = Counter(project.subjects)
    assert len(project.data) == len(project.subjects) == 1500
    assert len(counts) == 300
    assert (counts[demo.FIRST], counts[demo.SECOND]) == (2, 4)
    is_other = project.data.tensors[1] != digits()[0].tensors[1]
    assert [project.subjects[at] for at in is_other.nonzero().flatten()] == [demo.SECOND] * 4
    assert max(counts.values()) == 9
    with torch.no_grad():
        assert project.recipe.model()(project.data[0][0].unsqueeze(0)).shape == (1, 10)
