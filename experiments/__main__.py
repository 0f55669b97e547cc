"""Measure everything, and write docs/forgetting.md: `python experiments --mnist FOLDER ...`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import page
from erased import ERASED
from grid import FASHION, HERE, METHODS, MNIST, Experiment, grid
from obliviate.lab import Lab, lab
from obliviate.recipe.project import ProjectFile


def measured(
    experiment: Experiment, labs: Path, folders: dict[str, Path], methods: list[str], workers: int
) -> Lab:
    """What the laboratory finds, from its cells as far as they are there."""
    project = ProjectFile(file=HERE / f"{experiment.project}.py", options=experiment.given(folders))
    return lab(
        project,
        labs / experiment.name,
        subjects=[ERASED],
        methods=methods,
        seeds=experiment.seeds,
        workers=workers,
        keep=True,
    )


def main() -> None:
    """Run the grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, default=Path("data/mnist"))
    parser.add_argument("--fashion", type=Path, default=Path("data/fashion-mnist"))
    parser.add_argument("--labs", type=Path, default=Path("labs"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--method", action="append", help="instead of all")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--only", default="", help="experiments whose names hold this")
    chosen = parser.parse_args()
    folders = {MNIST: chosen.mnist, FASHION: chosen.fashion}
    for experiment in () if chosen.page else grid():
        if chosen.only not in experiment.name:
            continue
        started = time.perf_counter()
        methods = chosen.method or list(METHODS)
        found = measured(experiment, chosen.labs, folders, methods, chosen.workers)
        print(f"{experiment.name}, {time.perf_counter() - started:.0f} s", flush=True)
        for row in found.findings:
            print(
                f"  {row.method:25} blocks {row.blocks_replayed:5g}  shift {row.shift:5.2f}  "
                f"bias {row.bias:+.2f}±{row.bias_error:.2f}  agree {row.agreeing:.2f}",
                flush=True,
            )
    page.write(chosen.labs)


if __name__ == "__main__":
    main()
