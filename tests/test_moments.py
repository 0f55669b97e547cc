"""Optimizer state: training on after a round trip is training on, bit for bit."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

import obliviate as ob
from obliviate.errors import InvalidRecipe, ObliviateError
from obliviate.run.make import new_trainer
from obliviate.states.update import captured, digest
from obliviate.training.optimizer import moments_bytes
from obliviate.training.optimizer_state import packed_optimizer, unpack_optimizer
from obliviate.training.protocol import Checkpoint, Trained
from obliviate.vault.codec import decode, encode
from obliviate.vault.frames import Plain, framed

NOBODY = np.array([], dtype=np.int64)
OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": partial(torch.optim.Adam, lr=0.01),
    "Adam, fused": partial(torch.optim.Adam, lr=0.01, fused=True),
    "Adam, one by one": partial(torch.optim.Adam, lr=0.01, foreach=False),
    "AdamW, amsgrad": partial(torch.optim.AdamW, lr=0.01, amsgrad=True),
    "NAdam": partial(torch.optim.NAdam, lr=0.01),
    "RAdam": partial(torch.optim.RAdam, lr=0.01),
    "Adamax": partial(torch.optim.Adamax, lr=0.01),
    "RMSprop": partial(torch.optim.RMSprop, lr=0.01),
    "RMSprop, centered": partial(torch.optim.RMSprop, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": partial(torch.optim.Adagrad, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.1),
    "Adadelta": partial(torch.optim.Adadelta),
    "ASGD": partial(torch.optim.ASGD, lr=0.1, t0=2),
    "Rprop": partial(torch.optim.Rprop),
}


def joined(state):
    return Plain(b"".join(framed(encode(state))))


def contents(packed):
    """A packed optimizer state in comparable form; the order of its entries is of no matter."""
    numbers = json.loads(bytes(packed["numbers"].numpy()))
    return numbers, digest({name: each for name, each in packed.items() if name != "numbers"})


def warming(step: int, total: int) -> float:
    return (step + 1) / total


def trained(recipe, data, start, blocks):
    """The checkpoint after some blocks, with a trainer of its own."""
    trainer = new_trainer(recipe, data, 40, 4)
    start = start or trainer.initial()
    items = list(trainer.train(start, blocks, NOBODY))
    return next(item for item in reversed(items) if isinstance(item, Trained)).checkpoint


@pytest.mark.parametrize("schedule", [None, warming], ids=["constant", "warming"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_on_from_a_kept_checkpoint_gives_the_same_bits(name, schedule, recipe_of, data):
    recipe = recipe_of(
        optimizer=OPTIMIZERS[name], optimizer_state="carried", schedule=schedule, repeats=2
    )
    whole = trained(recipe, data, None, [1, 2, 3, 4])
    half = trained(recipe, data, None, [1, 2])
    assert (half.optimizer is None) == (name == "SGD")  # which has nothing that could be carried
    moments = decode(joined(half.optimizer)) if half.optimizer else None
    kept = Checkpoint(model=decode(joined(half.model)), optimizer=moments)
    resumed = trained(recipe, data, kept, [3, 4])
    assert digest(resumed.model) == digest(whole.model)
    if moments is not None:
        assert contents(resumed.optimizer) == contents(whole.optimizer)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"SGD", "Rprop"}))
def test_moments_matter(name, recipe_of, data):
    """Else the test above would prove nothing."""
    recipe = recipe_of(optimizer=OPTIMIZERS[name], optimizer_state="carried")
    whole = trained(recipe, data, None, [1, 2, 3, 4])
    half = trained(recipe, data, None, [1, 2])
    without = trained(recipe, data, Checkpoint(model=half.model), [3, 4])
    assert digest(without.model) != digest(whole.model)


def two_groups(parameters):
    weight, bias = parameters
    groups = [{"params": [weight], "lr": 0.1}, {"params": [bias], "lr": 0.01, "momentum": 0.5}]
    return SGD(groups, lr=1.0, momentum=0.9)


def test_parameter_groups_keep_their_own_rates(recipe_of, data):
    recipe = recipe_of(optimizer=two_groups, optimizer_state="carried", schedule=warming)
    whole = trained(recipe, data, None, [1, 2, 3, 4])
    resumed = trained(recipe, data, trained(recipe, data, None, [1, 2]), [3, 4])
    assert digest(resumed.model) == digest(whole.model)


class Slowing(SGD):
    """An optimizer that counts its steps in its groups."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["taken"] = group.get("taken", 0) + 1
            group["dampening"] = 1 - 1 / group["taken"]
        return super().step(closure)


def test_what_an_optimizer_keeps_in_its_groups_is_carried(recipe_of, data):
    recipe = recipe_of(optimizer=partial(Slowing, lr=0.1, momentum=0.9), optimizer_state="carried")
    whole = trained(recipe, data, None, [1, 2, 3, 4])
    resumed = trained(recipe, data, trained(recipe, data, None, [1, 2]), [3, 4])
    assert digest(resumed.model) == digest(whole.model)


def test_a_parameter_that_was_never_trained_has_no_state():
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.Adam(parameters)
    parameters[1].sum().backward()
    optimizer.step()
    other = torch.optim.Adam([each.detach().clone().requires_grad_() for each in parameters])
    unpack_optimizer([other], decode(joined(packed_optimizer([optimizer]))))
    assert [len(state) for state in other.state.values()] == [3]


def test_half_precision_moments_keep_their_dtypes():
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    other_weight = nn.Parameter(weight.detach().clone())
    other = torch.optim.Adam([other_weight])
    unpack_optimizer([other], packed_optimizer([optimizer]))
    assert {name: value.dtype for name, value in other.state[other_weight].items()} == {
        name: value.dtype for name, value in optimizer.state[weight].items()
    }
    assert other.state[other_weight]["exp_avg"].dtype == torch.bfloat16
    assert other.state[other_weight]["step"].dtype == torch.float32


def test_packing_copies():
    weight = nn.Parameter(torch.ones(4))
    optimizer = SGD([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    packed = packed_optimizer([optimizer])
    before = digest(packed)
    optimizer.step()
    assert digest(packed) == before != digest(packed_optimizer([optimizer]))
    other_weight = nn.Parameter(torch.ones(4))
    other = SGD([other_weight], lr=0.1, momentum=0.9)
    unpack_optimizer([other], packed)
    other_weight.sum().backward()
    other.step()
    assert digest(packed) == before


def test_lists_of_an_optimizer_are_refused_by_name():
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.LBFGS([weight])

    def closure():
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(InvalidRecipe, match="LBFGS keeps 'al' as list") as refusal:
        packed_optimizer([optimizer])
    assert 'optimizer_state="fresh"' in refusal.value.hint


def test_lbfgs_is_refused_before_anything_is_written(tmp_path, recipe_of, data):
    recipe = recipe_of(optimizer=torch.optim.LBFGS, optimizer_state="carried")
    with pytest.raises(ObliviateError, match="LBFGS"):
        ob.fit(recipe, data, tmp_path / "run", blocks=4)
    assert not (tmp_path / "run").exists()


class Remembering(SGD):
    """An optimizer that keeps something which is no tensor and no number."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter].setdefault("norms", []).append(
                    float(parameter.detach().norm())
                )
        return super().step(closure)


def test_an_optimizer_that_cannot_be_carried_is_refused_before_anything_is_written(
    tmp_path, recipe_of, data
):
    recipe = recipe_of(optimizer=partial(Remembering, lr=0.1), optimizer_state="carried")
    with pytest.raises(InvalidRecipe, match="Remembering keeps 'norms' as list"):
        ob.fit(recipe, data, tmp_path / "run", blocks=4)
    assert not (tmp_path / "run").exists()


def test_an_optimizer_that_cannot_be_carried_can_be_made_anew(tmp_path, recipe_of, data):
    recipe = recipe_of(optimizer=partial(Remembering, lr=0.1), optimizer_state="fresh")
    run = ob.fit(recipe, data, tmp_path / "run", blocks=4)
    plain = ob.fit(recipe_of(), data, tmp_path / "plain", blocks=4)
    assert digest(captured(run.model.state_dict())) == plain.digest


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [("SGD", 0), ("momentum", 1), ("Adam", 2), ("SparseAdam", 2)],
)
def test_how_much_an_optimizer_keeps_is_found_out_without_training(optimizer, copies, recipe_of):
    made = {
        "SGD": partial(SGD, lr=0.1),
        "momentum": partial(SGD, lr=0.1, momentum=0.9),
        "Adam": torch.optim.Adam,
        "SparseAdam": torch.optim.SparseAdam,  # which takes no gradients but sparse ones
    }[optimizer]
    recipe = recipe_of(optimizer=made)
    model = recipe.model()
    size = sum(each.numel() * each.element_size() for each in model.parameters())
    counters = moments_bytes(recipe, model) - copies * size
    assert 0 <= counters <= 4 * len(list(model.parameters()))
