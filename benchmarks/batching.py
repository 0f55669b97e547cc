"""A hundred pending requests, carried out together, beside one exact replay.

`python -m benchmarks.batching --data FOLDER`: 12,000 records of MNIST in 100 blocks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks.page import table, write
from benchmarks.paper import project

REQUESTS, RECORDS, BLOCKS, ROUNDS = 100, 12_000, 100, 3


def measure(folder: Path, data: Path, seed: int) -> dict[str, object]:
    """One round: the hundred together, and the earliest of them alone, each from a fresh copy."""
    mnist = project(data=str(data))
    records_of = TensorDataset(*(tensor[:RECORDS] for tensor in mnist.data.tensors))
    made = folder / "made"
    if not made.exists():
        ob.fit(mnist.recipe, records_of, made, blocks=BLOCKS)
    records = np.random.default_rng(seed).choice(RECORDS, REQUESTS, replace=False)
    seconds = {}
    for way in ("together", "earliest alone"):
        copy = folder / f"{way} {seed}"
        shutil.copytree(made, copy)
        run = ob.load(copy, mnist.recipe, records_of)
        blocks = run.trainer.layout.places(records.astype(np.int64)).earliest
        if way == "together":
            for record in records.tolist():
                run.request(records=[record], method="exact")
            started = time.perf_counter()
            run.work(everything=True)
        else:
            earliest = int(records[blocks.argmin()])
            started = time.perf_counter()
            run.forget(records=[earliest], method="exact")
        seconds[way] = time.perf_counter() - started
        shutil.rmtree(copy)
    return {
        "round": seed,
        "earliest block": int(blocks.min()),
        "together s": seconds["together"],
        "one exact replay s": seconds["earliest alone"],
        "ratio": seconds["together"] / seconds["earliest alone"],
    }


def run(data: Path) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        return [measure(Path(folder), data, seed) for seed in range(ROUNDS)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("OBLIVIATE_DATA", "data/mnist"))
    chosen = parser.parse_args()
    rows = run(Path(chosen.data))
    columns = {
        "round": "",
        "earliest block": "",
        "together s": ".1f",
        "one exact replay s": ".1f",
        "ratio": ".2f",
    }
    write(
        "batching",
        requests=REQUESTS,
        records=RECORDS,
        blocks=BLOCKS,
        rows=table(rows, columns),
        ratio=statistics.median(float(row["ratio"]) for row in rows),
    )
