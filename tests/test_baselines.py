"""Every baseline keeps the contract, and does on a case with a known answer what its paper says."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import obliviate as ob
from obliviate.datasets import digits
from obliviate.errors import InvalidOption, UnknownMethod
from obliviate.events import finish
from obliviate.lab.baselines import registry
from obliviate.lab.baselines.registry import unlearner_of
from obliviate.lab.baselines.retrain import Retrain
from obliviate.states.update import captured, digest
from obliviate.testing import UnlearnerContract

PACKAGE = Path(__file__).with_name("package_with_method")
ERASED = np.array([3, 5, 8])


class TestRetrain(UnlearnerContract):
    unlearner = Retrain()


@pytest.fixture
def another_package(monkeypatch):
    """A distribution with a baseline of its own is installed."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    registry.BASELINES.refresh()
    yield
    registry.BASELINES.refresh()


@pytest.mark.usefixtures("another_package")
class TestOfAnotherPackage(UnlearnerContract):
    @property
    def unlearner(self):
        return unlearner_of("nothing")


@pytest.mark.usefixtures("another_package")
def test_what_cannot_be_used_is_named_and_the_rest_works():
    assert registry.names()[-3:] == ["nothing", "broken", "absent"]
    assert unlearner_of("retrain") == Retrain()  # whoever announces that name too
    faults = registry.faults()
    assert "no Unlearner" in faults["broken"]
    assert "cannot be imported" in faults["absent"]
    assert "that name is taken" in faults["retrain"]
    with pytest.raises(UnknownMethod, match="no baseline 'magic'"):
        unlearner_of("magic")
    with pytest.raises(InvalidOption, match="the baseline retrain takes no 'epochs'"):
        unlearner_of("retrain:epochs=1")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


@pytest.fixture(scope="module")
def project():
    """300 digits, and a small network that learns them."""
    data, test = digits()
    recipe = ob.Recipe(
        model=mlp,
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        loss=nn.functional.cross_entropy,
        batch_size=16,
        epochs=6,
        seed=5,
    )
    return ob.Project(
        recipe=recipe, data=torch.utils.data.Subset(data, range(300)), test=test, blocks=3
    )


def prepared_by(unlearner, project, folder):
    return finish(unlearner_of(unlearner).prepare(project, folder))


def test_training_and_retraining_give_the_bits_of_a_run(project, tmp_path):
    prepared = prepared_by("retrain", project, tmp_path)
    for at, exclude in enumerate(([], ERASED.tolist())):
        if exclude:
            cost = finish(prepared.forget(ERASED))
            assert (cost.records, cost.share) == ((300 - 3) * 6, 1.0)
        with ob.fit(
            project.recipe,
            project.data,
            tmp_path / str(at),
            blocks=project.blocks,
            exclude=exclude,
        ) as run:
            assert digest(captured(prepared.model.state_dict())) == run.digest
