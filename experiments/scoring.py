"""What scoring costs: `python experiments/scoring.py --labs LABS ...`, once the grid was run.

Erases the planted records from copies of the originals that the laboratory kept, with a clock
around all that calibrated does beside training and storing: scoring states, fitting the law,
choosing ρ and checking the result. BatchNorm statistics, which every stitch measures anew, are left
out once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import obliviate as ob
from erased import ERASED
from grid import FASHION, HERE, MNIST, Experiment, one_pass
from obliviate.erasure import loop
from obliviate.methods import trace
from obliviate.recipe.project import ProjectFile
from page import SCORING

SEEDS = 3
WATCHED = [(trace.Scorer, "__init__"), (trace.Trace, "follow"), (trace.Trace, "decide")]
STITCHED = [(trace.Stitching, "__init__"), (trace.Trace, "stitch")]
REESTIMATED = "obliviate.erasure.loop.reestimated"
SPENT: dict[str, list[float]] = {}
Row = dict[str, Any]


def clocked(owner: Any, name: str, spent: dict[str, list[float]]) -> None:
    """Put a clock around a function."""
    inner = getattr(owner, name)

    def timed(*given: Any, **named: Any) -> Any:
        started = time.thread_time()
        try:
            return inner(*given, **named)
        finally:
            key = f"{owner.__name__}.{name}"
            spent.setdefault(key, []).append(time.thread_time() - started)

    setattr(owner, name, timed)


def measured(experiment: Experiment, labs: Path, folders: dict[str, Path]) -> Row | None:
    """What scoring costs beside one block's replay, and beside all that was replayed."""
    if not (labs / experiment.name / "lab.json").exists():
        return None
    kept = sorted((labs / experiment.name / "runs").glob("original-*"))
    made = ProjectFile(file=HERE / f"{experiment.project}.py", options=experiment.given(folders))()
    shares = [shares_of(folder, made) for folder in kept[:SEEDS]]
    block, whole = (statistics.median(each) for each in zip(*shares, strict=True))
    return {"name": experiment.name, "family": experiment.family, "block": block, "whole": whole}


def shares_of(folder: Path, made: ob.Project) -> tuple[float, float]:
    """The two shares for a copy of one original."""
    seed = int(folder.name.split("-")[1])
    recipe = replace(made.recipe, seed=seed, block_seed=made.recipe.seed)
    records = np.flatnonzero(np.array(made.subjects) == ERASED)
    with tempfile.TemporaryDirectory() as place:
        run = ob.load(shutil.copytree(folder, Path(place) / "run"), recipe, made.data)
        SPENT.clear()
        found = run.forget(records=records, method="calibrated")
        seconds = [entry.seconds for entry in run.chain().entries]
        run.ledger.close()
    replayed = [seconds[at] for first, last in found.segments for at in range(first, last + 1)]
    needed = SPENT.pop(REESTIMATED, [0.0])[0]
    spent = sum(sum(each) for each in SPENT.values()) - needed
    return spent / statistics.median(replayed), spent / sum(replayed)


def main() -> None:
    """Measure the early mislabelled records of every family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, default=Path("data/mnist"))
    parser.add_argument("--fashion", type=Path, default=Path("data/fashion-mnist"))
    parser.add_argument("--labs", type=Path, default=Path("labs"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # as the originals were trained
    folders = {MNIST: chosen.mnist, FASHION: chosen.fashion}
    for owner, name in (*WATCHED, *STITCHED, (loop, "reestimated")):
        clocked(owner, name, SPENT)
    wanted = [each for each in one_pass() if each.name.endswith("mislabelled-early")]
    rows = [row for each in wanted if (row := measured(each, chosen.labs, folders))]
    (chosen.labs / SCORING).write_text(json.dumps(rows, indent=1))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
