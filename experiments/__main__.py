"""Measure everything, and write what came of it: `python experiments --mnist FOLDER ...`.

Chains of epochs go into docs/forgetting.md, chains of one pass into docs/one_pass.md.

With `--tuning` the chains of epochs are measured on other people, blocks and models, into a folder
of their own: methods are chosen on those.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import chains
import one_pass
from erased import ERASED
from grid import FOLDERS, HERE, Experiment, grid, tuning
from obliviate.lab import Lab, lab
from obliviate.recipe.project import ProjectFile

DEFAULTS = {"fashion": "fashion-mnist", "cifar": "cifar10", "retail": "online_retail"}
TUNING = "tuning"


def measured(
    experiment: Experiment,
    labs: Path,
    folders: dict[str, Path],
    methods: tuple[str, ...],
    workers: int,
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
    for name in FOLDERS:
        parser.add_argument(f"--{name}", type=Path, default=Path("data", DEFAULTS.get(name, name)))
    parser.add_argument("--labs", type=Path, default=Path("labs"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--method", action="append", help="instead of all")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--only", default="", help="experiments whose names hold this")
    parser.add_argument("--tuning", action="store_true", help="on others, into LABS/tuning")
    chosen = parser.parse_args()
    folders = {name: getattr(chosen, name) for name in FOLDERS}
    labs = chosen.labs / TUNING if chosen.tuning else chosen.labs
    for experiment in () if chosen.page else tuning() if chosen.tuning else grid():
        if chosen.only not in experiment.name:
            continue
        started = time.perf_counter()
        methods = tuple(chosen.method or experiment.methods)
        found = measured(experiment, labs, folders, methods, chosen.workers)
        print(f"{experiment.name}, {time.perf_counter() - started:.0f} s", flush=True)
        for row in found.findings:
            print(
                f"  {row.method:30} blocks {row.blocks_replayed:5g}  shift {row.shift:5.2f}  "
                f"bias {row.bias:+.2f}±{row.bias_error:.2f}  agree {row.agreeing:.2f}",
                flush=True,
            )
    for page in (chains, one_pass):
        if page.measured(labs):
            page.write(labs)


if __name__ == "__main__":
    main()
