"""Small models and recipes that the integration tests share."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate.recipe.parts import Part, with_part

RECORDS, BLOCKS, CLASSES = 72, 6, 4


def parts_of(records: int, blocks: int, *, epochs: int = 1, seed: int = 0) -> tuple[Part, ...]:
    """Some epochs over records of nobody."""
    groups = np.arange(records)
    return with_part((), groups, records=records, blocks=blocks, epochs=epochs, seed=seed)


class Transformer(nn.Module):
    """One encoder layer over four tokens, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x.reshape(-1, 4, 16))).mean(dim=1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def batch_norm_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 8),
        nn.BatchNorm1d(8),
        nn.Linear(8, CLASSES),
    )


def dropout_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.ReLU(),
        nn.Dropout2d(0.2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(36, CLASSES),
    )


MODELS = {
    "mlp": mlp,
    "batch-norm-cnn": batch_norm_cnn,
    "dropout-cnn": dropout_cnn,
    "transformer": Transformer,
}
SGD = partial(torch.optim.SGD, lr=0.05)
MOMENTUM = partial(torch.optim.SGD, lr=0.02, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.003)
OPTIMIZERS = {
    "sgd": (SGD, "fresh"),
    "momentum-carried": (MOMENTUM, "carried"),
    "adam-fresh": (ADAM, "fresh"),
    "adam-carried": (ADAM, "carried"),
}


def cosine(step: int, total: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / total))


SCHEDULES = {"constant": None, "cosine": cosine}


def images(records: int = RECORDS, seed: int = 0) -> TensorDataset:
    """Noisy images of `CLASSES` patterns."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(CLASSES, (records,), generator=generator)
    patterns = torch.randn(CLASSES, 1, 8, 8, generator=generator)
    noise = torch.randn(records, 1, 8, 8, generator=generator)
    return TensorDataset(patterns[targets] + noise, targets)


def recipe(model="mlp", optimizer="sgd", schedule="constant", **options):
    """A recipe of named parts; a part that is no name is taken as it is."""
    make_optimizer, optimizer_state = OPTIMIZERS.get(optimizer, (optimizer, "fresh"))
    values = {
        "model": MODELS.get(model, model),
        "optimizer": make_optimizer,
        "loss": nn.functional.cross_entropy,
        "schedule": SCHEDULES.get(schedule, schedule),
        "optimizer_state": optimizer_state,
        "batch_size": 5,
        "repeats": 2,
        "seed": 3,
    }
    return ob.Recipe(**(values | options))


class Guarded(Dataset):
    """A dataset that raises when it is asked for a forbidden record."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data
        self.forbidden: set[int] = set()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int):
        if index in self.forbidden:
            raise AssertionError(f"record {index} was read after it was erased")
        return self.data[index]


def records_in(run: ob.Run, *blocks: int, each: int = 1) -> list[int]:
    """The ids of some records of each of the blocks."""
    layout = run.trainer.layout
    return [int(record) for block in blocks for record in layout.members(block)[:each]]
