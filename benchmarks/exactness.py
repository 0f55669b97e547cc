"""What it costs to be sure: `fit` with it, and the comparison before an erasure is called exact.

`python -m benchmarks.exactness --data FOLDER`, a folder that holds MNIST's four IDX files.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path

import obliviate as ob
from benchmarks import plain
from benchmarks.page import table, write
from benchmarks.paper import project
from obliviate.run.make import new_layout

BLOCKS, ROUNDS, BEFORE_THE_END = 100, 5, 20


def erased(run: ob.Run, record: int) -> tuple[float, float]:
    """Seconds of a replayed block, and of the comparison, in one exact erasure."""
    started = time.perf_counter()
    compared = last = started
    for event in run.forget.events(records=[record], method="exact"):
        if event.task == "replay":
            last = time.perf_counter()
        elif event.task == "compare":
            compared = time.perf_counter()
    ended = time.perf_counter()
    return (last - started) / BEFORE_THE_END, ended - compared


def measure(seed: int, data: Path) -> dict[str, object]:
    """One round: `fit`, the loop, and an exact erasure."""
    mnist = project(data=str(data))
    recipe = dataclasses.replace(mnist.recipe, repeats=1, seed=seed)
    layout = new_layout(recipe, len(mnist.data), BLOCKS)
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        run = ob.fit(recipe, mnist.data, place + "/run", blocks=BLOCKS)
        fit = time.perf_counter() - started
        started = time.perf_counter()
        plain.train(recipe, mnist.data, layout)
        loop = time.perf_counter() - started
        block, compared = erased(run, int(layout.members(BLOCKS - BEFORE_THE_END + 1)[0]))
    return {
        "round": seed,
        "fit s": fit,
        "loop s": loop,
        "ratio": fit / loop,
        "replayed block ms": 1000 * block,
        "comparing ms": 1000 * compared,
        "in blocks": compared / block,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("OBLIVIATE_DATA", "data/mnist"))
    rows = [measure(seed, Path(parser.parse_args().data)) for seed in range(ROUNDS)]
    columns = {
        "round": "",
        "fit s": ".1f",
        "loop s": ".1f",
        "ratio": ".2f",
        "replayed block ms": ".0f",
        "comparing ms": ".0f",
        "in blocks": ".2f",
    }
    write(
        "exactness",
        blocks=BLOCKS,
        rows=table(rows, columns),
        fit=statistics.median(float(row["ratio"]) for row in rows),
        compared=statistics.median(float(row["in blocks"]) for row in rows),
    )
