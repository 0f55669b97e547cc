"""The desk at scale: what a request costs where a million people are known and many wait.

`python -m benchmarks.desk --subjects 1000000 --waiting 1000`
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from sqlalchemy import event

from benchmarks.ledger import timed_making
from benchmarks.page import table, write
from obliviate.desk import Desk
from obliviate.ledger import Ledger
from obliviate.methods.exact import Exact
from obliviate.methods.registry import options_of

TRIES = 5


def cpu_seconds(words: list[str]) -> float:
    """The processor time of one command in a process of its own: user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands(folder: Path) -> dict[str, list[str]]:
    obliviate = ["-m", "obliviate"]
    person = ["--subject", "person-17@example.org"]
    return {
        "python -c pass": ["-c", "pass"],
        "import obliviate": ["-c", "import obliviate"],
        "import torch": ["-c", "import torch"],
        "obliviate request": [*obliviate, "request", str(folder), *person, "--due", "2099-01-01"],
        "obliviate preview": [*obliviate, "preview", str(folder), *person],
        "obliviate status": [*obliviate, "status", str(folder)],
    }


def queued(folder: Path, waiting: int) -> tuple[float, int]:
    """The seconds that `queue` takes with so many requests, and its read transactions."""
    ledger = Ledger(folder)
    for number in range(waiting):
        records = np.array([number], dtype=np.int64)
        ledger.requests.register(options_of(Exact()), records, due="2099-01-01T00:00:00+00:00")
    ledger.close()
    seconds, begun = [], []
    with Desk.at(folder) as desk:
        engine = desk._ledger._database.engine
        event.listen(engine, "begin", begun.append)
        for _ in range(TRIES):
            started = time.perf_counter()
            desk.queue()
            seconds.append(time.perf_counter() - started)
    return median(seconds), len(begun) // TRIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=1_000_000)
    parser.add_argument("--waiting", type=int, default=1_000)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "run")
        people = [f"person-{number}@example.org" for number in range(given.subjects)]
        timed_making(folder, given.subjects, people, None)
        rows = [
            {"what": f"`{name}`", "seconds": median(cpu_seconds(words) for _ in range(TRIES))}
            for name, words in commands(folder).items()
        ]
        seconds, transactions = queued(folder, given.waiting)
    shown = table(rows, {"what": "", "seconds": ".2f"})
    print(shown, seconds, transactions)
    write(
        "desk",
        table=shown,
        subjects=f"{given.subjects:,}",
        waiting=f"{given.waiting:,}",
        seconds=f"{seconds:.2f}",
        transactions=transactions,
    )


if __name__ == "__main__":
    main()
