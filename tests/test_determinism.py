"""What bits depend on is kept and compared; what gives other bits each time is refused by name."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate import errors
from obliviate.lab.strictness import strictness
from obliviate.recipe.nondeterministic import refusal_of
from obliviate.run.make import new_trainer
from obliviate.training.determinism import SWITCHES, Environment, environment_facts
from obliviate.training.first_step import probe, try_block

NOBODY = np.array([], dtype=np.int64)
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture
def many():
    generator = torch.Generator().manual_seed(7)
    return TensorDataset(torch.randn(400, 4, generator=generator), torch.arange(400) % 3)


class OwnNoise(nn.Linear):
    """Draws from a source that nobody seeds, once the first steps are over."""

    quiet_steps = 4

    def __init__(self):
        super().__init__(4, 3)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        if self.training:
            self.steps += 1
        noise = int(self.steps) > self.quiet_steps
        scale = 1 + int.from_bytes(os.urandom(4), "little") / 2**36 if noise else 1.0
        return super().forward(x) * scale


class Putting(nn.Linear):
    """Uses an operation that torch refuses on any device."""

    def __init__(self):
        super().__init__(4, 3)

    def forward(self, x):
        mask = torch.ones(4).put_(torch.tensor([1]), torch.tensor([2.0]))
        return super().forward(x * mask)


def test_a_first_block_that_is_short_is_trained_on_twice(tmp_path, recipe_of, many):
    """Its first step alone would not tell."""
    with pytest.raises(errors.NotDeterministic, match="tried twice, gave two results") as raised:
        ob.fit(recipe_of(model=OwnNoise, repeats=10), many, tmp_path / "run", blocks=100)
    assert "global generators" in raised.value.hint
    assert "Triton" not in raised.value.hint
    assert not (tmp_path / "run").exists()


def test_a_long_first_block_is_not_trained_on_twice_on_a_processor(recipe_of, many):
    trainer = new_trainer(recipe_of(model=OwnNoise), many, 400, 4)
    probe(trainer, NOBODY)
    assert list(try_block(trainer, NOBODY)) == []


def test_on_an_accelerator_every_first_block_is_trained_on_twice(recipe_of, many):
    """There is none here: a recipe that says so, and a trainer that trains on the processor."""
    trainer = new_trainer(recipe_of(model=OwnNoise), many, 400, 4)
    probe(trainer, NOBODY)
    trainer.recipe = recipe_of(model=OwnNoise)
    object.__setattr__(trainer.recipe, "device", "cuda")
    with pytest.raises(errors.NotDeterministic) as raised:
        list(try_block(trainer, NOBODY))
    assert "Triton" in raised.value.hint


@pytest.mark.parametrize("blocks", [3, 100])
def test_what_gives_the_same_is_trained(tmp_path, recipe_of, many, blocks):
    run = ob.fit(recipe_of(model=partial(nn.Linear, 4, 3)), many, tmp_path / "run", blocks=blocks)
    assert run.guarantee == "exact"


def test_an_operation_that_torch_refuses_is_named_with_what_to_use(tmp_path, recipe_of, many):
    with pytest.raises(errors.NotDeterministic, match="put_ has no deterministic") as raised:
        ob.fit(recipe_of(model=Putting), many, tmp_path / "run", blocks=4)
    assert "torch.where" in raised.value.hint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("operation", "advice"),
    [
        ("adaptive_max_pool2d_backward_cuda", "max_pool with a fixed kernel"),
        ("adaptive_avg_pool2d_backward_cuda", "avg_pool with a fixed kernel"),
        ("ctc_loss_backward_gpu", "the loss on the CPU"),
        ("cumsum_cuda_kernel", "triangular"),
        ("upsample_bicubic2d_backward_out_cuda", "nearest"),
        ("scatter with src tensor and reduce=None", "index_add"),
        ("max_unpooling2d_forward_out", "repeat_interleave"),
        ("something_new_cuda", "other operations, or on the CPU"),
    ],
)
def test_refusals_of_torch_say_what_to_use(operation, advice):
    said = f"{operation} does not have a deterministic implementation, but you set '...'"
    refused = refusal_of(RuntimeError(said))
    assert operation in refused.message
    assert advice in refused.hint


def test_other_errors_are_no_refusals():
    assert refusal_of(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert refusal_of(ValueError("x does not have a deterministic implementation")) is None


def test_another_accelerator_is_told_and_its_replays_are_approximate(tmp_path, recipe_of, many):
    run = ob.fit(recipe_of(), many, tmp_path / "run", blocks=4)
    made = {"accelerator": "NVIDIA H100 80GB HBM3, 9.0, 132 multiprocessors", "cuda": "13.0"}
    run.writer.facts = replace(run.facts, environment=dict(run.facts.environment) | made)
    erasure = run.forget(records=[3], method="exact")
    assert erasure.guarantee == "approximate"
    assert "H100" in erasure.stop_reason


@pytest.mark.parametrize("name", sorted(SWITCHES))
def test_every_switch_can_be_written_as_it_is_read(name):
    switch, before = SWITCHES[name], SWITCHES[name].read()
    switch.write(before)
    assert switch.read() == before
    kept = json.loads(json.dumps(before))
    assert (tuple(kept) if isinstance(kept, list) else kept) == before


def test_attention_and_reductions_are_as_they_were_when_a_run_was_made():
    made = environment_facts()
    order = SWITCHES["attention order"].read()
    SWITCHES["attention order"].write(order[::-1])
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with Environment.of("cpu", made).entered():
            assert SWITCHES["attention order"].read() == order
            assert not torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
        assert SWITCHES["attention order"].read() == order[::-1]
        assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    finally:
        SWITCHES["attention order"].write(order)
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)


def test_a_workspace_of_cublas_is_set_for_the_time_of_training(monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    made = environment_facts() | {"cublas workspace": '":4096:8"'}
    with Environment.of("cpu", made).entered():
        assert os.environ[WORKSPACE] == ":4096:8"
    assert WORKSPACE not in os.environ
    assert "cublas workspace" not in environment_facts()  # on a processor it is no fact


def test_what_determinism_costs_is_measured(recipe_of, many):
    project = ob.Project(recipe=recipe_of(), data=many)
    found = strictness(project, steps=5, turns=1)
    assert found.steps == pytest.approx(5, abs=3)
    assert found.ratio == found.strict_seconds / found.free_seconds > 0
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(errors.InvalidOption, match="steps"):
        strictness(project, steps=0)


def test_without_strictness_torch_refuses_nothing(recipe_of, many):
    trainer = new_trainer(recipe_of(model=Putting), many, 400, 4)
    strict = trainer.environment
    trainer.environment = Environment("cpu", strict.threads, strict.facts, is_strict=False)
    *_, trained = trainer.train(trainer.initial(), [1], NOBODY)
    assert trained.loss > 0
