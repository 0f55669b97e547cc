"""What being erasable costs: `fit` beside the hand-written loop, and beside ordinary training."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from typing import TYPE_CHECKING

import torch

import obliviate as ob
from benchmarks import plain
from benchmarks.mnist import reading_seconds
from benchmarks.paper import project
from obliviate.run.make import new_layout

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS, SEEDS = 100, 3


def timed(call):
    """The result of a call, and its seconds."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def pair(recipe, data):
    """`fit` at B=100, an erasure, and the loop over the same batches, each timed."""
    layout = new_layout(recipe, len(data), BLOCKS)
    with tempfile.TemporaryDirectory() as place:
        run, fit = timed(lambda: ob.fit(recipe, data, place + "/run", blocks=BLOCKS))
        model = run.model
        record = [int(layout.members(BLOCKS // 2)[0])]
        erasure, seconds = timed(lambda: run.forget(records=record))
        allowed = erasure.blocks_replayed * fit / BLOCKS + reading_seconds(run, record)
    _, loop = timed(lambda: plain.train(recipe, data, layout))
    return model, fit, loop, seconds / allowed


def beside_the_loop(folder: Path) -> list[dict[str, float]]:
    """On each seed: `fit` and the loop timed, and accuracy beside ordinary shuffled training."""
    mnist = project(data=str(folder))
    rows = []
    for seed in range(SEEDS):
        recipe = dataclasses.replace(mnist.recipe, seed=seed)
        model, fit, loop, erasing = pair(recipe, mnist.data)
        torch.manual_seed(seed)
        shuffled = plain.train_shuffled(recipe, mnist.data)
        rows.append(
            {
                "seed": seed,
                "fit seconds": fit,
                "loop seconds": loop,
                "ratio": fit / loop,
                "erasing": erasing,
                "accuracy in blocks": plain.accuracy(model, mnist.test),
                "accuracy shuffled": plain.accuracy(shuffled, mnist.test),
            }
        )
        print(rows[-1], flush=True)
    return rows


def one_epoch_ratio(folder: Path) -> float:
    """The same ratio with one epoch a block, where keeping states weighs four times as much."""
    mnist = project(data=str(folder))
    recipe = dataclasses.replace(mnist.recipe, repeats=1)
    pairs = [pair(recipe, mnist.data)[1:3] for _ in range(SEEDS)]
    return statistics.median(fit / loop for fit, loop in pairs)
