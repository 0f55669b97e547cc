"""Lightning's own fit, over the batches of a run."""

import contextlib

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch.utils.data import DataLoader

from obliviate.training.determinism import seed_generators
from obliviate.training.step import step_seed
from tests.lightning_modules import records

BLOCKS, EPOCHS, SIZE = 2, 2, 4
NOBODY = np.array([], dtype=np.int64)


def trainer(**options):
    usual = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": EPOCHS,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**usual | options)


def loader(data=None, **options):
    return DataLoader(data or records(), **{"batch_size": SIZE, "shuffle": True} | options)


def made(kind):
    torch.manual_seed(3)
    return kind()


class InOrder:
    """The batches of a run, epoch by epoch, as Lightning asks for them."""

    def __init__(self, layout):
        self.epoch = 0
        part = layout.parts[0]
        self.epochs = [[] for _ in part.deals]
        for block in range(1, layout.blocks + 1):
            for each in layout.microbatches(block, NOBODY):
                epoch = self.epochs[(block - 1) // part.blocks]
                epoch.append((each.records.tolist(), step_seed(layout.seed, block, each)))

    def __iter__(self):
        self.epoch += 1
        return iter([ids for ids, _ in self.epochs[self.epoch - 1]])

    def __len__(self):
        assert len({len(each) for each in self.epochs}) == 1
        return len(self.epochs[0])


def fitted(module, layout, data=None, **options):
    """Lightning's own fit, over the same batches under the same seeds."""
    order = InOrder(layout)
    seeds = iter([seed for epoch in order.epochs for _, seed in epoch])
    seeding = LambdaCallback(
        on_train_batch_start=lambda *_: seed_generators(next(seeds), "cpu"),
    )
    batches = DataLoader(data or records(), batch_sampler=order)
    with deterministic():
        trainer(callbacks=[seeding], **options).fit(module, batches)
    return module


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def is_same(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)
