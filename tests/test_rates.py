"""Schedulers of torch's: the same rates at every step, wherever training begins."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler

import obliviate as ob
from obliviate import errors
from obliviate.training.rates import Rates
from tests.models import ADAM, MOMENTUM, images, mlp, recipe, records_in

BLOCKS = 6
CYCLE = partial(lr_scheduler.OneCycleLR, max_lr=0.05)


def layers(model):
    return torch.optim.SGD(
        [{"params": model[1].parameters()}, {"params": model[3].parameters(), "lr": 0.01}],
        lr=0.05,
        momentum=0.9,
    )


def warming(optimizer, steps):
    return lr_scheduler.LambdaLR(
        optimizer, [lambda step: min(1, step / 5), lambda step: 1 - step / steps]
    )


def shape_of(made):
    """The rates of a recipe, and an optimizer of a model by it."""
    model = made.model()
    first = (
        made.optimizer if made.optimizer is layers else lambda net: made.optimizer(net.parameters())
    )
    return Rates(made, lambda: [first(model)]), first(model)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": MOMENTUM, "schedule": CYCLE, "optimizer_state": "carried"},
        {"optimizer": MOMENTUM, "schedule": CYCLE, "optimizer_state": "fresh"},
        {"optimizer": ADAM, "schedule": CYCLE, "optimizer_state": "carried"},
        {"optimizer": layers, "schedule": warming, "optimizer_state": "carried"},
    ],
    ids=["momentum", "fresh", "betas", "groups"],
)
def test_forgetting_is_training_without(options, tmp_path):
    made, data = recipe(epochs=2, **options), images()
    run = ob.fit(made, data, tmp_path / "run", blocks=BLOCKS)
    gone = records_in(run, 2, 9)
    run.close()
    run = ob.load(tmp_path / "run", made, data)  # whose rates begin in the middle
    erasure = run.forget(records=gone, method="exact")
    never = ob.fit(made, data, tmp_path / "never", blocks=BLOCKS, exclude=gone)
    assert erasure.digest == never.digest
    assert run.verify().passed


def test_an_extension_has_a_schedule_of_its_own(tmp_path):
    made, data = recipe(optimizer=MOMENTUM, schedule=CYCLE, optimizer_state="carried"), images(60)
    part = torch.utils.data.Subset(data, range(40))
    run = ob.fit(made, part, tmp_path / "run", blocks=4)
    run.extend(data, blocks=2)
    gone = records_in(run, 3, 5)
    assert run.forget(records=gone, method="exact").guarantee == "exact"
    assert run.verify().passed


def test_rates_are_those_of_a_scheduler_that_is_stepped_in_any_order():
    made = recipe(optimizer=MOMENTUM, schedule=CYCLE, optimizer_state="carried")
    rates, optimizer = shape_of(made)
    new = [dict(group) for group in optimizer.param_groups]
    live = torch.optim.SGD(mlp().parameters(), lr=0.02, momentum=0.9)
    scheduler, seen = CYCLE(live, total_steps=9_000), []
    for _ in range(9_000):
        (group,) = live.param_groups
        seen.append({"lr": group["lr"], "momentum": group["momentum"]})
        live.step()
        scheduler.step()
    for step in (8_500, 3, 0, 8_999, 8_191, 8_192):
        assert rates.at(step, 9_000, new) == [seen[step]]


def test_what_the_optimizer_counts_in_its_groups_is_left_alone():
    """Only what a scheduler moves is set."""
    rates, optimizer = shape_of(recipe(optimizer=ADAM, schedule=warming_alone))
    new = [dict(group) for group in optimizer.param_groups]
    assert [set(group) for group in rates.at(3, 50, new)] == [{"lr"}]


def warming_alone(optimizer):
    return lr_scheduler.LinearLR(optimizer)


def by_metric(optimizer):
    return lr_scheduler.ReduceLROnPlateau(optimizer)


class Asking:
    """As other libraries have them."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, value):
        """Never called."""


REFUSED = {
    "plateau": (partial(lr_scheduler.ReduceLROnPlateau, patience=2), "ReduceLROnPlateau goes by a"),
    "plateau in a function": (by_metric, "ReduceLROnPlateau goes by a metric"),
    "a step that asks": (Asking, "Asking goes by a metric"),
    "a class that lacks something": (lr_scheduler.StepLR, "'step_size'"),
    "a scheduler that exists": (warming_alone(ADAM(mlp().parameters())), "exists already"),
    "no scheduler": (lambda optimizer: 0.5, "schedule gave float"),
    "of another optimizer": (
        lambda optimizer: warming_alone(ADAM(mlp().parameters())),
        "LinearLR of another optimizer",
    ),
    "too many things": (lambda optimizer, total, other: None, "'other'"),
    "not finite": (
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: float("nan")),
        "'lr' to no finite number",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_replayed_is_refused_by_name(what, tmp_path):
    schedule, fault = REFUSED[what]
    with pytest.raises(errors.InvalidRecipe, match=fault):
        ob.fit(recipe(schedule=schedule), images(), tmp_path / "run", blocks=BLOCKS)
    assert not (tmp_path / "run").exists()


def test_a_schedule_that_is_too_short_is_refused_before_training(tmp_path):
    short = partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=20)
    with pytest.raises(errors.TrainingFailed, match=r"the schedule at step 21 of \d+ raised"):
        ob.fit(recipe(optimizer=MOMENTUM, schedule=short), images(), tmp_path / "run", blocks=6)
    assert not (tmp_path / "run").exists()


CHANGED = {
    "a later milestone": [
        partial(lr_scheduler.MultiStepLR, milestones=[at], gamma=0.5) for at in (20, 21)
    ],
    "groups": [
        lambda model, at=at: torch.optim.SGD(
            [{"params": model[at].parameters()}, {"params": model[4 - at].parameters()}], lr=0.1
        )
        for at in (1, 3)
    ],
}


@pytest.mark.parametrize("what", CHANGED)
def test_another_schedule_or_grouping_is_another_recipe(what, tmp_path):
    field = "schedule" if what == "a later milestone" else "optimizer"
    before, after = ({field: each} for each in CHANGED[what])
    run = ob.fit(recipe(**before), images(), tmp_path / "run", blocks=BLOCKS)
    with pytest.raises(errors.ForeignRecipe, match=field):
        ob.load(run.folder, recipe(**after), images())
    assert ob.load(run.folder, recipe(**before), images()).digest == run.digest
