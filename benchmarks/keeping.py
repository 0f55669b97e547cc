"""What keeping costs: `fit` beside the hand-written loop over the same batches, in turn.

`python -m benchmarks.keeping --data FOLDER`, where FOLDER holds MNIST's IDX files.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from functools import partial

import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks import plain
from benchmarks.page import table, write
from benchmarks.paper import project
from obliviate.run.make import new_layout, trainer_of
from obliviate.training.determinism import environment_facts
from obliviate.training.protocol import Trained

SMALL_BLOCKS, SMALL_STEPS, BATCH = 500, 12, 32


def small_net() -> nn.Module:
    """80,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, 2, 2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, 2, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1568, 42),
        nn.ReLU(),
        nn.Linear(42, 10),
    )


def noise(records: int) -> TensorDataset:
    """Images of nothing: what they show is of no matter to the clock."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(records, 1, 28, 28, generator=generator)
    return TensorDataset(images, torch.randint(10, (records,), generator=generator))


def timed(call):
    """How long a call takes, and its result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def fitted(recipe, data, blocks: int) -> float:
    """`fit` into a new folder; the seconds of the training in it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ob.fit(recipe, data, f"{folder}/run", blocks=blocks) as run,
    ):
        return sum(entry.seconds for entry in run.chain().entries)


def rounds(name: str, recipe, data, blocks: int, count: int) -> list[dict[str, object]]:
    """The loop and `fit` in turn."""
    layout = new_layout(recipe, len(data), blocks)
    rows = []
    for number in range(count):
        loop, _ = timed(lambda: plain.train(recipe, data, layout))
        fit, training = timed(lambda: fitted(recipe, data, blocks))
        rows.append(
            {
                "chain": name,
                "round": number,
                "loop s": loop,
                "fit s": fit,
                "ratio": fit / loop,
                "beside its training": fit / training,
            }
        )
        print(rows[-1], flush=True)
    return rows


def block_by_block(recipe, data, blocks: int) -> float:
    """The trainer's time over the loop's, each block of both in turn: the median of the ratios."""
    layout = new_layout(recipe, len(data), blocks)
    facts = environment_facts()
    trainer = trainer_of(recipe, data, layout, environment=facts, content_key=bytes(32))
    loop = plain.blocks(recipe, data, layout)
    ours = trainer.train(trainer.initial(), range(1, blocks + 1), plain.NOBODY)
    ours = (item for item in ours if isinstance(item, Trained))
    pairs = [(timed(lambda: next(loop))[0], timed(lambda: next(ours))[0]) for _ in range(blocks)]
    return statistics.median(theirs / its for its, theirs in pairs[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    mnist = project(data=given.data)
    one_epoch = dataclasses.replace(mnist.recipe, repeats=1, optimizer_state="carried")
    small = ob.Recipe(
        model=small_net,
        optimizer=partial(torch.optim.SGD, lr=0.01),
        loss=nn.functional.cross_entropy,
        batch_size=BATCH,
    )
    data = noise(SMALL_BLOCKS * SMALL_STEPS * BATCH)
    fitted(small, noise(64), 2)  # what is imported at first is no part of it
    found = {
        "large": rounds("MNIST, 100 blocks", one_epoch, mnist.data, 100, given.rounds),
        "small": rounds("500 small blocks", small, data, SMALL_BLOCKS, given.rounds),
    }
    columns = {
        "chain": "",
        "round": "",
        "loop s": ".1f",
        "fit s": ".1f",
        "ratio": ".3f",
        "beside its training": ".3f",
    }
    write(
        "keeping",
        training=block_by_block(one_epoch, mnist.data, 100),
        table=table([*found["large"], *found["small"]], columns),
        **{name: statistics.median(row["ratio"] for row in rows) for name, rows in found.items()},
        **{
            f"{name}_within": statistics.median(row["beside its training"] for row in rows)
            for name, rows in found.items()
        },
    )


if __name__ == "__main__":
    main()
