"""Stitching: the difference that is followed, and BatchNorm measured anew."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset

from obliviate.chain.chain import subtracted
from obliviate.errors import TrainingFailed
from obliviate.methods.stitch import Difference, reestimated
from obliviate.run.make import new_trainer
from obliviate.states.update import Update, captured, digest, update_between
from obliviate.training.protocol import Trained

NOBODY = np.array([], dtype=np.int64)
PARAMETERS = frozenset({"weight", "bias"})


def states(length, seed, dtype=torch.float32):
    """A chain of random states: two parameters, a running mean and a counter."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        "weight": torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).to(dtype),
        "bias": torch.zeros(5, dtype=dtype),
        "mean": torch.zeros(5, dtype=dtype),
        "count": torch.tensor(0),
    }
    chain = [state]
    for _ in range(length):
        state = {
            name: value + 1
            if name == "count"
            else value + (0.1 * torch.randn(value.shape, generator=generator)).to(dtype)
            for name, value in state.items()
        }
        chain.append(state)
    return chain


def grown(difference, original, replayed):
    return difference.follow(original.steps.items(), replayed)[0]


def followed(original, replayed):
    difference, residual = Difference(PARAMETERS, frozenset({"mean"})), []
    for k in range(1, len(original)):
        steps = (update_between(chain[k - 1], chain[k]) for chain in (original, replayed))
        residual.append(grown(difference, *steps))
    return difference, residual


def double(state, name):
    return state[name].double()


# The difference


@given(length=st.integers(1, 12), seed=st.integers(1, 1000))
def test_the_difference_followed_is_the_difference_of_the_states(length, seed):
    original, replayed = states(length, seed), states(length, seed + 1)
    difference, _ = followed(original, replayed)
    for name in ("weight", "bias"):
        direct = double(original[-1], name) - double(replayed[-1], name)
        assert torch.allclose(difference.tensors[name].double(), direct, atol=1e-5)


@given(length=st.integers(1, 6), seed=st.integers(1, 1000))
def test_residual_memory_is_the_l1_norm_over_the_parameters_alone(length, seed):
    original, replayed = states(length, seed), states(length, seed + 1)
    _, residual = followed(original, replayed)
    for k in range(1, length + 1):
        direct = sum(
            (
                (double(original[k], name) - double(original[k - 1], name))
                - (double(replayed[k], name) - double(replayed[k - 1], name))
            )
            .abs()
            .sum()
            for name in PARAMETERS
        )
        assert residual[k - 1] == pytest.approx(float(direct), rel=1e-4)


def test_two_equal_trainings_leave_no_residual_memory():
    chain = states(5, seed=1)
    difference, residual = followed(chain, chain)
    assert residual == [0.0] * 5
    assert all((tensor == 0).all() for tensor in difference.tensors.values())


def test_an_entry_that_only_one_of_the_two_changed_is_followed():
    """A parameter may rest in a block of which every batch was left empty."""
    old = {"weight": torch.zeros(2), "bias": torch.ones(2)}
    moved = old | {"weight": torch.tensor([1.0, -2.0])}
    for original, replayed, sign in ((old, moved, -1), (moved, old, 1)):
        difference, residual = followed([old, original], [old, replayed])
        assert residual == [3.0]
        assert difference.tensors["weight"].tolist() == [sign * 1.0, sign * -2.0]
        assert "bias" not in difference.tensors


def test_a_replayed_update_is_not_changed_by_following_it():
    """It is written to the vault; the original one is used up, as it says."""
    original, replayed = states(3, seed=1), states(3, seed=2)

    def updates(chain):
        return [update_between(chain[k - 1], chain[k]) for k in (1, 2, 3)]

    kept = updates(replayed)
    before = [digest(update.steps) for update in kept]
    difference = Difference(PARAMETERS)
    for original_update, replayed_update in zip(updates(original), kept, strict=True):
        grown(difference, Update(), replayed_update)
        grown(difference, original_update, replayed_update)
    assert [digest(update.steps) for update in kept] == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_difference_of_half_precision_states_is_summed_in_single_precision(dtype):
    original, replayed = states(60, 1, dtype), states(60, 2, dtype)
    difference, _ = followed(original, replayed)
    tensor = difference.tensors["weight"]
    assert tensor.dtype == torch.float32
    steps = sum(
        (original[k]["weight"] - original[k - 1]["weight"]).double()
        - (replayed[k]["weight"] - replayed[k - 1]["weight"]).double()
        for k in range(1, 61)
    )
    assert torch.allclose(tensor.double(), steps, atol=1e-5)


def test_the_length_of_an_update_is_that_of_its_parameters():
    update = Update(steps={"weight": torch.tensor([3.0, -4.0]), "mean": torch.tensor([100.0])})
    assert Difference(PARAMETERS).follow(update.steps.items(), Update())[1] == 7
    assert Difference(PARAMETERS).follow([], update) == (7, 0)


SUMMING = """
import torch
from obliviate.states.update import Update
from obliviate.methods.stitch import Difference
names = [f"layers.{at}.weight" for at in range(200)]
torch.manual_seed(0)
steps = {name: torch.rand(1, dtype=torch.float64).exp() for name in names}
print(repr(Difference(frozenset(names)).follow(steps.items(), Update())))
"""


def test_residual_memory_is_the_same_to_the_last_bit_in_every_process():
    """It decides where replaying stops: a resumed erasure must stop where the first one would."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", SUMMING],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    assert len({run.communicate()[0] for run in runs}) == 1


# The stitch


def test_the_stitch_is_the_last_state_minus_the_difference():
    original, replayed = states(6, seed=1), states(3, seed=2)
    difference, _ = followed(original[:4], replayed)
    stitched = subtracted(original[6], difference.tensors)
    for name in ("weight", "bias"):
        direct = double(replayed[3], name) + double(original[6], name) - double(original[3], name)
        assert torch.allclose(stitched[name].double(), direct, atol=1e-5)
        assert stitched[name].dtype == original[6][name].dtype


def test_counters_are_taken_from_the_last_state():
    original, replayed = states(6, seed=1), states(3, seed=2)
    difference, _ = followed(original[:4], replayed)
    assert "count" not in difference.tensors
    assert subtracted(original[6], difference.tensors)["count"] == 6


def test_half_precision_states_stay_so():
    original, replayed = (states(2, seed, torch.bfloat16) for seed in (1, 2))
    difference, _ = followed(original, replayed)
    stitched = subtracted(original[-1], difference.tensors)
    assert stitched["weight"].dtype == torch.bfloat16
    assert torch.allclose(stitched["weight"].float(), replayed[-1]["weight"].float(), atol=0.05)


def test_tied_entries_are_stitched_as_one():
    shared = torch.ones(3)
    state = {"embed": shared, "head": shared, "other": torch.ones(3)}
    stitched = subtracted(state, {"embed": torch.tensor([0.5, 0.0, 2.0])})
    assert stitched["embed"] is stitched["head"]
    assert stitched["head"].tolist() == [0.5, 1.0, -1.0]
    assert stitched["other"].tolist() == [1, 1, 1]


# BatchNorm


def normed():
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.BatchNorm1d(5)
    )


class Shared(nn.Module):
    """One BatchNorm layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(4)
        self.again = self.first
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.again(self.first(x)))


class Flaky(Dataset):
    """A dataset that may fail."""

    def __init__(self, data) -> None:
        self.data, self.fails = data, set()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index):
        if index in self.fails:
            raise OSError(f"record {index} cannot be read")
        return self.data[index]


def run_of(recipe, data, blocks=(1, 2, 3, 4), trainer=None):
    """A trainer and the state after some blocks."""
    trainer = trainer or new_trainer(recipe, data, 40, 4)
    *_, last = trainer.train(trainer.initial(), blocks, NOBODY)
    assert isinstance(last, Trained)
    return trainer, last.checkpoint.model


def broken(state):
    """What a bad stitch makes of running statistics."""
    return {
        name: value - 5 if "running" in name else value.clone() for name, value in state.items()
    }


def measured_directly(state, data, trainer, *, blocks, erased, epochs):
    """Mean of the batches' means and of their unbiased variances, at each BatchNorm layer."""
    model = normed()
    model.load_state_dict({name: value.clone() for name, value in state.items()})
    model.train()
    first, second = [], []
    for block in blocks:
        per_epoch = trainer.layout.steps(block) // epochs
        for step, ids in trainer.layout.batches(block, erased):
            if step < per_epoch:
                with torch.no_grad():
                    hidden = model[0](data.tensors[0][torch.from_numpy(ids)])
                    first.append(hidden)
                    second.append(model[3](model[2](model[1](hidden))))
    return {
        f"{layer}.{kind}": torch.stack([measure(each) for each in inputs]).mean(dim=0)
        for layer, inputs in ((1, first), (4, second))
        for kind, measure in (
            ("running_mean", lambda each: each.mean(dim=0)),
            ("running_var", lambda each: each.var(dim=0, unbiased=True)),
        )
    }


@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_are_the_average_over_the_batches(recipe_of, data, momentum):
    def model():
        made = normed()
        made[1].momentum = made[4].momentum = momentum
        return made

    trainer, state = run_of(recipe_of(model=model, epochs=2), data)
    erased = np.sort(np.concatenate([trainer.layout.members(3)[:3], trainer.layout.members(4)[:1]]))
    found = reestimated(trainer, broken(state), [3, 4], erased)
    direct = measured_directly(state, data, trainer, blocks=[3, 4], erased=erased, epochs=2)
    assert set(direct) == {name for name in state if "running" in name}
    for name, value in direct.items():
        assert torch.allclose(found[name], value, atol=1e-5), name
        if name.endswith("var"):
            assert (found[name] >= 0).all()


def test_weights_and_counters_stay_what_was_stitched(recipe_of, data):
    trainer, state = run_of(recipe_of(model=normed), data)
    stitched = broken(state)
    before = digest(stitched)
    found = reestimated(trainer, stitched, [4], NOBODY)
    assert found.keys() == stitched.keys()
    for name, value in stitched.items():
        assert ("running" in name) != torch.equal(found[name], value), name
    assert digest(stitched) == before


def test_erased_records_are_not_read(recipe_of, data):
    guarded = Flaky(data)
    trainer, state = run_of(recipe_of(model=normed), guarded)
    erased = np.sort(trainer.layout.members(4)[:5])
    guarded.fails = set(erased.tolist())
    whole, _ = run_of(recipe_of(model=normed), data)
    assert digest(reestimated(trainer, state, [3, 4], erased)) == digest(
        reestimated(whole, state, [3, 4], erased)
    )


def test_where_nobody_is_left_the_state_stays(recipe_of, data):
    trainer, state = run_of(recipe_of(model=normed), data)
    erased = np.sort(trainer.layout.members(4))
    assert digest(reestimated(trainer, state, [4], erased)) == digest(state)


def test_a_model_without_statistics_is_left_alone(recipe_of, data):
    for model in (
        partial(nn.Linear, 4, 3),
        lambda: nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)),
    ):
        trainer, state = run_of(recipe_of(model=model), data)
        assert digest(reestimated(trainer, state, [4], NOBODY)) == digest(state)


def test_training_after_a_measurement_is_the_training_it_was(recipe_of, data):
    recipe = recipe_of(model=normed)
    trainer, state = run_of(recipe, data)
    reestimated(trainer, state, [3, 4], NOBODY)
    assert digest(run_of(recipe, data, trainer=trainer)[1]) == digest(state)


def test_training_after_a_failed_measurement_is_the_training_it_was(recipe_of, data):
    """The run may be used on: a later exact replay must give the bits that it always gave."""
    flaky = Flaky(data)
    recipe = recipe_of(model=normed)
    trainer, state = run_of(recipe, flaky)
    flaky.fails = set(trainer.layout.members(4)[:1].tolist())
    with pytest.raises(TrainingFailed, match="cannot be read"):
        reestimated(trainer, state, [3, 4], NOBODY)
    flaky.fails = set()
    assert digest(run_of(recipe, flaky, trainer=trainer)[1]) == digest(state)


def test_an_error_of_the_model_during_a_measurement_is_named(recipe_of, data):
    broken = []

    def step(model, batch):
        assert not broken, "the labels are gone"
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    trainer, state = run_of(recipe_of(model=normed, step=step), data)
    broken.append(True)
    with pytest.raises(TrainingFailed, match="the labels are gone"):
        reestimated(trainer, state, [4], NOBODY)


def test_a_layer_with_two_names_has_one_pair_of_statistics(recipe_of, data):
    trainer, state = run_of(recipe_of(model=Shared), data)
    stitched = captured_tied(broken_tied(state))
    found = reestimated(trainer, stitched, [4], NOBODY)
    for kind in ("running_mean", "running_var"):
        assert torch.equal(found[f"first.{kind}"], found[f"again.{kind}"])
        assert not torch.equal(found[f"first.{kind}"], stitched[f"first.{kind}"])


def broken_tied(state):
    worse = {
        id(value): value - 5 if value.is_floating_point() else value for value in state.values()
    }
    return {name: worse[id(value)] for name, value in state.items()}


def captured_tied(state):
    assert state["first.running_var"] is state["again.running_var"]
    return captured(state)
