"""What a recipe declares of a step: what is refused, and what is carried."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import obliviate as ob
from obliviate.errors import InvalidRecipe
from obliviate.run.make import new_trainer
from obliviate.states.update import digest
from obliviate.training.protocol import trained_block
from tests.test_moments import trained

SGD = torch.optim.SGD


def halves(model):
    """Two optimizers for the weight and the bias."""
    weight, bias = model.parameters()
    return SGD([weight], lr=0.1, momentum=0.9), torch.optim.Adam([bias], lr=0.01)


class Halves(nn.Module):
    """Tied, so that two entries have one average."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.again.weight = self.first.weight
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.head(torch.tanh(self.again(self.first(x))))


def by_items(model, batch, items):
    return cross_entropy(model(batch[0]), batch[1], reduction="sum") / items


def by_itself(model, batch, optimizers):
    first, _ = optimizers
    first.zero_grad()
    loss = cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    first.step()
    return loss


def no_scale(model, batch):
    """Every gradient overflows at first, until the scale is small enough."""
    outputs = model(batch[0])
    outputs.register_hook(lambda gradient: gradient * 64)
    return cross_entropy(outputs, batch[1])


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"microbatches": 33}, "a batch has no more than 32 records"),
        ({"microbatches": 0}, "microbatches is 0; it must be 1 or more"),
        ({"weigh": 3}, "weigh is 3; it must be callable or None"),
        ({"step": by_items}, r"step takes items; give weigh\(batch\)"),
        ({"accumulation": "ring"}, 'it must be "tree" or "sequence"'),
        ({"precision": "half"}, 'it must be "fp32" or "bf16" or "fp16"'),
        ({"clip_norm": -1}, "clip_norm is -1.0; it must be a number above 0"),
        ({"clip_norm": "big"}, "clip_norm is 'big'; it must be a number above 0"),
        ({"ema": 1.0}, "ema is 1.0; it must be a number between 0 and 1"),
        ({"step": by_itself, "clip_norm": 1}, "makes its own steps: do clip_norm in it"),
        ({"step": by_itself, "precision": "bf16"}, "makes its own steps: do precision in it"),
    ],
)
def test_what_cannot_be_declared(recipe_of, options, fault):
    with pytest.raises(InvalidRecipe, match=fault):
        recipe_of(**options, batch_size=32)


@pytest.mark.parametrize("value", [float("nan"), -1, "many", True])
def test_items_are_numbers(recipe_of, value):
    with pytest.raises(InvalidRecipe, match="must give a number of items"):
        recipe_of(weigh=lambda batch: value).items_of([])


def test_batch_norm_needs_two_records_in_a_microbatch(recipe_of, data, tmp_path):
    model = partial(nn.Sequential, nn.BatchNorm1d(4), nn.Linear(4, 3))
    recipe = recipe_of(model=model, batch_size=5, microbatches=3)
    with pytest.raises(InvalidRecipe, match="take batch_size=6, or fewer microbatches"):
        ob.fit(recipe, data, tmp_path / "run", blocks=3)


def test_an_optimizer_that_makes_no_step_is_refused(recipe_of, data, tmp_path):
    recipe = recipe_of(optimizer=halves, step=by_itself)
    with pytest.raises(InvalidRecipe, match=r"optimizer number 2 of 2 \(Adam\) made none"):
        ob.fit(recipe, data, tmp_path / "run", blocks=3)


def test_a_parameter_has_one_optimizer(recipe_of, data, tmp_path):
    recipe = recipe_of(optimizer=lambda model: [SGD(model.parameters(), lr=0.1) for _ in "ab"])
    with pytest.raises(InvalidRecipe, match="2 parameters belong to several optimizers"):
        ob.fit(recipe, data, tmp_path / "run", blocks=3)


def test_a_step_of_its_own_gives_no_loss_of_a_record(recipe_of):
    with pytest.raises(InvalidRecipe, match="gives no loss of single records"):
        recipe_of(optimizer=halves, step=by_itself).loss_of_step(nn.Linear(4, 3), [])


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": halves},
        {"precision": "fp16", "step": no_scale},
        {"precision": "fp16", "step": no_scale, "optimizer": halves, "clip_norm": 0.5},
    ],
)
def test_what_optimizers_and_the_scaler_keep_is_carried(recipe_of, data, options):
    recipe = recipe_of(**{"optimizer": partial(SGD, lr=0.1)} | options)
    whole = trained(recipe, data, None, [1, 2, 3, 4])
    half = trained(recipe, data, None, [1, 2])
    resumed = trained(recipe, data, half, [3, 4])
    assert digest(resumed.model) == digest(whole.model)
    assert digest(resumed.optimizer) == digest(whole.optimizer) != digest(half.optimizer)


def test_a_block_whose_steps_are_all_skipped_is_not_learning(recipe_of, data):
    """Nothing is wrong with it: the scale is smaller behind it."""
    recipe = recipe_of(precision="fp16", step=no_scale, batch_size=30)
    trainer = new_trainer(recipe, data, 40, 4)
    first = trained_block(trainer, 1, trainer.initial, np.array([], dtype=np.int64))
    assert digest(first.checkpoint.model) == digest(trainer.initial().model)
    assert first.checkpoint.optimizer
    assert not first.is_learning
    assert first.loss


def test_averages_are_forgotten_with_the_weights(recipe_of, data, tmp_path):
    """Exactly at last; and beforehand the stitched average is one of stitched weights."""
    recipe = recipe_of(ema=0.9, epochs=2, model=Halves)
    with (
        ob.fit(recipe, data, tmp_path / "run", blocks=5) as run,
        ob.fit(recipe, data, tmp_path / "never", blocks=5, exclude=[7]) as never,
    ):
        whole = dict(run.model.state_dict())
        assert list(whole) == ["first.weight", "again.weight", "head.weight"]
        assert not torch.equal(whole["head.weight"], run.chain().state(10)["head.weight"])
        run.forget(records=[7], method="deepobliviate:epsilon=9,blocks=1")
        fast, exact = run.model.state_dict(), never.model.state_dict()
        opened = ob.open_model(tmp_path / "run", model=Halves)
        assert all(torch.equal(fast[name], opened.state_dict()[name]) for name in fast)
        for name, before in whole.items():
            assert 0 < (fast[name] - exact[name]).norm() < (before - exact[name]).norm()
        run.settle()
        assert run.digest == never.digest
        assert all(map(torch.equal, run.model.state_dict().values(), exact.values()))
