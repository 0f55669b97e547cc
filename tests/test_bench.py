"""The bench of a user's own project."""

import pytest
import torch

import obliviate as ob
from obliviate.errors import InvalidRecipe
from obliviate.lab.bench import bench
from obliviate.methods.registry import names
from tests.project_file import write_project
from tests.test_cli import ask, call


def test_every_method_is_measured(data, recipe_of):
    project = ob.Project(recipe=recipe_of(), data=data, test=data, blocks=10)
    result = bench(project)
    assert [row.method for row in result.rows] == list(names())
    assert result.blocks == 10
    assert 0 <= result.record < 40
    for row in result.rows:
        assert 1 <= row.blocks_replayed <= 10 - result.block + 1
        assert row.seconds > 0
        assert 0 <= row.accuracy <= 1
    exact = next(row for row in result.rows if row.method == "exact")
    assert exact.guarantee == "exact"
    assert exact.blocks_replayed == 10 - result.block + 1
    assert result.training_per_block > 0
    assert result.overhead_per_block >= 0


def test_a_method_that_the_loss_does_not_allow_is_left_out_and_said_to_be(data, recipe_of):
    def over_the_batch(outputs, targets):
        return torch.nn.functional.cross_entropy(outputs, targets) * (1 + outputs.var())

    project = ob.Project(recipe=recipe_of(loss=over_the_batch), data=data)
    result = bench(project, blocks=4)
    assert [row.method for row in result.rows] == ["exact", "deepobliviate"]
    assert "no form for single records" in result.refused["calibrated"]


def test_the_number_of_blocks_can_be_chosen(data, recipe_of):
    project = ob.Project(recipe=recipe_of(), data=data)
    result = bench(project, blocks=4)
    assert result.blocks == 4
    assert result.accuracy is None
    with pytest.raises(InvalidRecipe, match="blocks"):
        bench(project, blocks=41)


def test_the_command_prints_a_table(tmp_path):
    project = write_project(tmp_path)
    said = call("bench", project, "--blocks", 6).stdout
    for method in names():
        assert method in said
    assert "keeping the chain cost" in said
    assert "from a fresh copy" in said
    assert len(ask("bench", project, "-o", "blocks=5")["rows"]) == len(names())
    assert [path.name for path in tmp_path.iterdir()] == ["project.py"]
