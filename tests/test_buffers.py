"""Buffers of stitched states: BatchNorm measured anew."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from obliviate.errors import TrainingFailed
from obliviate.methods.buffers import reestimated
from obliviate.run.make import new_trainer
from obliviate.states.update import captured, digest
from obliviate.training.protocol import Trained

NOBODY = np.array([], dtype=np.int64)


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


def measured_directly(state, data, trainer, *, blocks, erased, repeats):
    """Mean of the batches' means and of their unbiased variances, at each BatchNorm layer."""
    model = normed()
    model.load_state_dict({name: value.clone() for name, value in state.items()})
    model.train()
    first, second = [], []
    for block in blocks:
        steps_once = trainer.layout.steps(block) // repeats
        for step, ids in trainer.layout.batches(block, erased):
            if step < steps_once:
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

    trainer, state = run_of(recipe_of(model=model, repeats=2), data)
    erased = np.sort(np.concatenate([trainer.layout.members(3)[:3], trainer.layout.members(4)[:1]]))
    found = reestimated(trainer, broken(state), [3, 4], erased)
    direct = measured_directly(state, data, trainer, blocks=[3, 4], erased=erased, repeats=2)
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
