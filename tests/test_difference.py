"""Differences of states: followed from block to block, and taken off."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from obliviate.states.difference import Difference, l1, subtracted
from obliviate.states.update import Update, digest, update_between

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
from obliviate.states.difference import Difference
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


# The norm


def test_the_l1_norm_is_summed_in_double_precision():
    tiny = torch.full((10_000_000,), 1e-4, dtype=torch.float16)
    assert l1([tiny, torch.tensor([-3.0, 3j.imag])]) == pytest.approx(
        10_000_000 * float(tiny[0]) + 6
    )
    assert l1([]) == 0.0


def test_the_l1_norm_of_complex_numbers_is_that_of_their_lengths():
    assert l1([torch.tensor([3 + 4j])]) == pytest.approx(5)
