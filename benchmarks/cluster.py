"""Measure the laboratory on Ray beside the pool of this machine: `python -m benchmarks.cluster`."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.page import table, write
from obliviate.disk.scratch import scratch
from obliviate.executors import Job, executor_of
from obliviate.lab import lab
from obliviate.recipe.project import ProjectFile

PROJECT = Path(__file__).parents[1] / "examples" / "tabular.py"
WORKERS, SEEDS = 2, 4


class Nothing:
    """A job that does nothing: what is left is the start of the workers, and their end."""

    def __call__(self):
        return str


def started(on: str) -> float:
    """Seconds until both workers have answered, and are gone again."""
    begun = time.perf_counter()
    job = Job(source=Nothing(), tasks=tuple(map(str, range(WORKERS))))
    assert sum(len(some) for some in executor_of(on, WORKERS).results(job)) == WORKERS
    return time.perf_counter() - begun


def measured(on: str, folder: Path, options: dict[str, str]) -> tuple[float, dict[str, object]]:
    """Seconds, and what was measured on each model but for how long it took."""
    begun = time.perf_counter()
    source = ProjectFile(file=PROJECT, options=options)
    lab(source, folder, records=[40], seeds=SEEDS, workers=WORKERS, on=on)
    seconds = time.perf_counter() - begun
    cells = {}
    for path in (folder / "cells").iterdir():
        cell = json.loads(path.read_text())
        cells[path.name] = (cell["scores"], cell["accuracies"], cell["facts"].get("digest"))
    return seconds, cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    chosen = parser.parse_args()
    options = dict(each.split("=", 1) for each in chosen.option)
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    cells = {}
    for on in ("local", "ray"):
        with scratch() as folder:
            starting = started(on)
            seconds, cells[on] = measured(on, folder / "lab", options)
        rows.append(
            {
                "on": on,
                "start and end, seconds": starting,
                "laboratory, seconds": seconds,
                "less start and end, seconds": seconds - starting,
            }
        )
        print(rows[-1], flush=True)
    less = [float(str(row["less start and end, seconds"])) for row in rows]
    write(
        "cluster",
        rows=table(rows, {name: "" if name == "on" else ".1f" for name in rows[0]}),
        trials=2 * SEEDS,
        models=len(cells["local"]),
        workers=WORKERS,
        same="the same to the bit" if cells["local"] == cells["ray"] else "NOT THE SAME",
        ratio=less[1] / less[0],
    )


if __name__ == "__main__":
    main()
