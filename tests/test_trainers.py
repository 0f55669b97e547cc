"""Every trainer keeps the contract: ours, and one that shares nothing with it but the contract."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

import obliviate as ob
from obliviate.run.make import new_trainer
from obliviate.testing import TrainerContract
from obliviate.testing.linear import LinearRecipe, LinearTrainer
from obliviate.training.model import load_state
from obliviate.training.protocol import trained_block
from obliviate.training.trainer import Trainer
from tests.models import cosine


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 3))


class TestTrainer(TrainerContract):
    recipe = ob.Recipe(
        model=partial(nn.Linear, 4, 3),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        loss=nn.functional.cross_entropy,
        batch_size=5,
    )


class TestTrainerThatCarries(TrainerContract):
    recipe = ob.Recipe(
        model=dropping,
        optimizer=partial(torch.optim.Adam, lr=0.01),
        loss=nn.functional.cross_entropy,
        batch_size=5,
        epochs=2,
        schedule=cosine,
        optimizer_state="carried",
        smallest_batch=2,
    )


class TestByHand(TrainerContract):
    recipe = LinearRecipe(batch_size=5)


class TestByHandCarried(TrainerContract):
    recipe = LinearRecipe(batch_size=5, epochs=2, optimizer_state="carried")


def test_a_recipe_names_its_trainer(recipe_of, data):
    assert type(new_trainer(recipe_of(), data, 40, 4)) is Trainer
    assert type(new_trainer(LinearRecipe(), data, 40, 4)) is LinearTrainer


def test_a_gradient_by_hand_learns(data):
    trainer = new_trainer(LinearRecipe(batch_size=5, epochs=8), data, 40, 1)
    losses = []
    for block in (0, 1):
        trained = trained_block(trainer, block, trainer.initial, np.array([], dtype=np.int64))
        load_state(trainer.model, trained.checkpoint.model)
        losses.append(float(trainer.forward(trainer.reader.batch(np.arange(40)))))
    assert losses[1] < losses[0]
