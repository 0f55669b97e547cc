"""Is a backdoor believed to be gone? Athena's test of deletion, seed by seed, on digits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.page import write
from obliviate.lab.bench.benchmark import benchmark_of
from obliviate.lab.bench.comparison import Reader
from obliviate.lab.bench.contender import label_of
from obliviate.lab.bench.deletion import LEVEL, QUERIES
from obliviate.lab.bench.trials import Workplace, trials_of
from obliviate.lab.presets import preset
from obliviate.training.determinism import environment_facts

if TYPE_CHECKING:
    from obliviate.lab.bench import Verdicts

METHODS = ("exact", "deepobliviate", "calibrated")
EPOCHS, BLOCKS = 5, 5
COLUMNS = [
    "method",
    "works before",
    "works after",
    "clean",
    "power",
    "original rejected",
    "accepted",
]


def cells(name: str, found: Verdicts) -> list[str]:
    """A line of the table."""
    return [
        name,
        f"{100 * found.before:.1f} %",
        f"{100 * found.after:.1f} %",
        f"{100 * found.clean:.1f} %",
        f"{found.power:.4f}",
        f"{found.rejected_before} of {found.seeds}",
        f"{found.accepted} of {found.seeds}",
    ]


def tested(folder: Path, seeds: int) -> dict[str, Verdicts]:
    """What is found of each method; what was measured before is not measured again."""
    digits = preset("digits", epochs=EPOCHS, blocks=BLOCKS)
    benchmark = benchmark_of(
        digits, methods=METHODS, requests=[1], size=None, seeds=seeds, has_backdoor=True
    )
    workplace = Workplace(digits, benchmark, folder, environment_facts())
    for trial in trials_of(benchmark):
        if trial.has_backdoor:
            workplace.carry_out(trial)
            print(f"seed {trial.number}", flush=True)
    reader = Reader(benchmark, workplace.cells)
    return {label_of(each): reader.verdicts(each) for each in benchmark.contenders}


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("bench/verification"))
    parser.add_argument("--page", action="store_true", help="write the table into the page")
    given = parser.parse_args()
    found = tested(given.folder, given.seeds)
    rows = [cells(name, each) for name, each in found.items()]
    lines = [f"| {' | '.join(each)} |" for each in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    print("\n".join(lines))
    if given.page:
        write(
            "verification",
            table="\n".join(lines),
            seeds=given.seeds,
            fewest=min(min(each.rejected_before, each.accepted) for each in found.values()),
            level=f"{LEVEL:g}",
            queries=QUERIES,
            epochs=EPOCHS,
            blocks=BLOCKS,
        )


if __name__ == "__main__":
    main()
