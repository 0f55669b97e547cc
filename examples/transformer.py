"""A small transformer that reads digits row by row, as sequences of eight tokens.

From the command line, where this file is a project:

    obliviate fit examples/transformer.py runs/transformer
    obliviate forget runs/transformer --subject writer-007

From Python, where it is a script:

    python examples/transformer.py --run runs/transformer

It has what transformers are trained with: dropout, Adam carried from block to block, a warm-up and
a cosine. All three must be replayed without moving for an erasure to be exact: the generators are
seeded before every step, Adam's moments are part of every checkpoint, and the schedule runs over
the whole chain rather than over a block.
"""

from __future__ import annotations

import argparse
import math
from functools import partial

import torch
from torch import nn

import obliviate as ob
from obliviate.datasets import digits

BLOCKS = 20
ROWS = 8
WIDTH = 32
WARM_UP = 0.05


class Reader(nn.Module):
    """Embed each row of pixels, let the rows attend to each other, tell the digit."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(ROWS, WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(ROWS, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, nhead=4, dim_feedforward=64, dropout=0.1, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images of shape [n, 1, 8, 8] -> scores of shape [n, 10]."""
        tokens = self.embed(images.squeeze(1)) + self.positions
        return self.head(self.encoder(tokens).mean(dim=1))


def cosine(step: int, total: int) -> float:
    """Warm up over the first twentieth of the chain, then fall to nothing."""
    done = step / total
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


RECIPE = ob.Recipe(
    model=Reader,
    optimizer=partial(torch.optim.Adam, lr=0.004),
    optimizer_state="carried",
    schedule=cosine,
    loss=nn.functional.cross_entropy,
    batch_size=10,
    repeats=8,
)


def project(blocks: str = str(BLOCKS)) -> ob.Project:
    """What the command line trains.

    Args:
        blocks: How many blocks the records are cut into.
    """
    learned, tested = digits()
    # 43 people wrote the digits, but who wrote which was not published: these are made up
    writers = [f"writer-{record // 5:03}" for record in range(len(learned))]
    return ob.Project(
        recipe=RECIPE, data=learned, test=tested, subjects=writers, blocks=int(blocks)
    )


def accuracy(model: nn.Module, data: torch.utils.data.TensorDataset) -> float:
    """The share of records that a model tells right."""
    images, labels = data.tensors
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).float().mean())


def main() -> None:
    """Train, forget a writer with records in several blocks, then settle exactly."""
    parser = argparse.ArgumentParser(description="Forget a writer.")
    parser.add_argument("--run", default="runs/transformer", help="folder of the run")
    parser.add_argument("--blocks", default=str(BLOCKS), help="how many blocks to train in")
    chosen = parser.parse_args()
    reader = project(blocks=chosen.blocks)

    run = ob.fit(
        reader.recipe, reader.data, chosen.run, blocks=reader.blocks, subjects=reader.subjects
    )
    print(f"trained: {accuracy(run.model, reader.test):.1%} of the test digits are told right")

    erasure = run.forget(subjects=["writer-007"])
    print(f"forgot {erasure.records} records; replayed blocks: {list(erasure.segments)}")
    print(f"  now {erasure.guarantee}, {accuracy(erasure.model, reader.test):.1%} right")

    settled = run.settle()
    print(f"settled: {settled.guarantee}, {accuracy(settled.model, reader.test):.1%} right")


if __name__ == "__main__":
    main()
