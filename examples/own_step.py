"""A training step and a dataset of your own: two heads, label smoothing, random augmentation.

From the command line, where this file is a project:

    obliviate fit examples/own_step.py runs/own-step
    obliviate forget runs/own-step --record 17

From Python, where it is a script:

    python examples/own_step.py --run runs/own-step

Whatever `step` does is replayed as it is, as long as two things hold. Its randomness comes from the
global generators of torch, numpy or Python, which are seeded before each step; the same goes for
the dataset, where they are seeded before each record. And it keeps nothing to itself between two
steps: what must survive a step belongs in the module, as a parameter or a buffer.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate.datasets import digits

BLOCKS = 25


class ShiftedDigits(Dataset[tuple[torch.Tensor, int]]):
    """Digits that are moved by up to a pixel each time they are looked at."""

    def __init__(self, data: TensorDataset) -> None:
        self.images, self.labels = data.tensors

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, record: int) -> tuple[torch.Tensor, int]:
        down, right = torch.randint(-1, 2, (2,)).tolist()
        moved = torch.roll(self.images[record], (down, right), dims=(1, 2))
        return moved, int(self.labels[record])


class TwoHeaded(nn.Module):
    """A code of 24 numbers, from which one head tells the digit and another draws it again."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 24))
        self.tell = nn.Sequential(nn.ReLU(), nn.Linear(24, 10))
        self.draw = nn.Sequential(nn.ReLU(), nn.Linear(24, 64), nn.Sigmoid())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images of shape [n, 1, 8, 8] -> scores of shape [n, 10]: what the model is used for."""
        return self.tell(self.encode(images))


def step(model: TwoHeaded, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The loss of a batch, from both heads."""
    images, labels = batch
    code = model.encode(images)
    told = nn.functional.cross_entropy(model.tell(code), labels, label_smoothing=0.05)
    drawn = nn.functional.mse_loss(model.draw(code), images.flatten(1))
    return told + drawn


def falling(step: int, total: int) -> float:
    """From 1 to 0 over the whole chain."""
    return 1 - step / total


RECIPE = ob.Recipe(
    model=TwoHeaded,
    optimizer=partial(torch.optim.SGD, lr=0.03, momentum=0.9),
    schedule=falling,
    step=step,
    batch_size=10,
    repeats=12,
)


def project(blocks: str = str(BLOCKS)) -> ob.Project:
    """What the command line trains.

    Args:
        blocks: How many blocks the records are cut into.
    """
    learned, tested = digits()
    return ob.Project(recipe=RECIPE, data=ShiftedDigits(learned), test=tested, blocks=int(blocks))


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """The share of records that a model tells right."""
    images, labels = data.tensors
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).float().mean())


def main() -> None:
    """Train, forget a record, settle exactly, and have two blocks replayed as proof."""
    parser = argparse.ArgumentParser(description="Forget with a training step of one's own.")
    parser.add_argument("--run", default="runs/own-step", help="folder of the run")
    parser.add_argument("--blocks", default=str(BLOCKS), help="how many blocks to train in")
    chosen = parser.parse_args()
    own = project(blocks=chosen.blocks)

    run = ob.fit(own.recipe, own.data, chosen.run, blocks=own.blocks)
    print(f"trained: {accuracy(run.model, own.test):.1%} of the test digits are told right")

    erasure = run.forget(records=[17])
    print(f"forgot a record: {erasure.blocks_replayed} of {erasure.blocks_total} blocks replayed")
    print(f"  now {erasure.guarantee}, {accuracy(erasure.model, own.test):.1%} right")

    settled = run.settle()
    print(f"settled: {settled.guarantee}, {accuracy(settled.model, own.test):.1%} right")
    print(f"blocks that replay to the very same bits: {run.verify(blocks=[1, 2]).reproduced}")


if __name__ == "__main__":
    main()
