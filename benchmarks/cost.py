"""What being erasable costs: `fit` beside the hand-written loop, and beside ordinary training."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from typing import TYPE_CHECKING

import torch
from examples.mnist import project

import obliviate as ob
from benchmarks import plain
from obliviate.making import layout_of

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS, PAIRS = 100, 3


def timed(call):
    """The result of a call, and its seconds."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def overhead(folder: Path) -> dict[str, object]:
    """`fit` at B=100 and the loop over the same batches, in turn; the median of the ratios.

    One epoch a block instead of the example's four: so keeping states weighs four times as much.
    """
    mnist = project(data=str(folder))
    recipe = dataclasses.replace(mnist.recipe, epochs=1)
    layout = layout_of(recipe, len(mnist.data), BLOCKS, 1)
    pairs = []
    for _ in range(PAIRS):
        with tempfile.TemporaryDirectory() as place:
            _, fit = timed(lambda: ob.fit(recipe, mnist.data, place + "/run", blocks=BLOCKS))
        _, loop = timed(lambda: plain.train(recipe, mnist.data, layout))
        pairs.append((fit, loop))
    return {
        "fit seconds": statistics.median(fit for fit, _ in pairs),
        "loop seconds": statistics.median(loop for _, loop in pairs),
        "ratios": [fit / loop for fit, loop in pairs],
        "median ratio": statistics.median(fit / loop for fit, loop in pairs),
    }


def shuffled_accuracy(folder: Path, seeds: int = 3) -> list[dict[str, float]]:
    """Block by block (B=100) and ordinary shuffled training, with as many epochs, on each seed."""
    mnist = project(data=str(folder))
    rows = []
    for seed in range(seeds):
        recipe = dataclasses.replace(mnist.recipe, seed=seed)
        with tempfile.TemporaryDirectory() as place:
            run = ob.fit(recipe, mnist.data, place + "/run", blocks=BLOCKS)
            in_blocks = plain.accuracy(run.model, mnist.test)
        torch.manual_seed(seed)
        shuffled = plain.accuracy(plain.train_shuffled(recipe, mnist.data), mnist.test)
        rows.append({"seed": seed, "in blocks": in_blocks, "shuffled": shuffled})
        print(rows[-1], flush=True)
    return rows
