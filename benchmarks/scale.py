"""Many blocks, many requests, many people: what must not grow faster than they do.

`python -m benchmarks.scale`: 5,000 blocks, 10,000 requests that wait, 100,000 people named at once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks.page import table, write

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDS_A_BLOCK = 24
SPARE = 20_000  # people whom nobody names
SECONDS = ("fit s", "settle s", "verify s")
SAMPLE = 200  # requests whose median is taken


def recipe() -> ob.Recipe:
    return ob.Recipe(
        model=partial(torch.nn.Linear, 8, 2),
        optimizer=partial(torch.optim.SGD, lr=0.01),
        loss=torch.nn.functional.cross_entropy,
        batch_size=RECORDS_A_BLOCK,
    )


def data(records: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(records, 8, generator=generator)
    return TensorDataset(inputs, (inputs.sum(dim=1) > 0).long())


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def made(folder: Path, blocks: int, people: int) -> tuple[ob.Run, float]:
    """A run of one record a person, and the seconds that `fit` took."""
    records = max(people + SPARE, RECORDS_A_BLOCK * blocks)
    names = [f"person-{number}@example.org" for number in range(records)]
    started = time.perf_counter()
    run = ob.fit(recipe(), data(records), folder, blocks=blocks, subjects=names)
    return run, time.perf_counter() - started


def of_people(run: ob.Run, people: int) -> list[dict[str, object]]:
    """How long a preview takes, by the number of people named."""
    names = [f"person-{number}@example.org" for number in range(people)]
    counts = (1, people // 100, people)
    return [
        {"people": count, "preview s": timed(lambda n=count: run.preview(subjects=names[:n]))}
        for count in counts
    ]


def of_requests(run: ob.Run, requests: int) -> list[dict[str, object]]:
    """How long the next request and the queue take, by how many wait."""
    rows: list[dict[str, object]] = []
    seconds: list[float] = []
    marks = {SAMPLE, requests // 10, requests}
    for number in range(requests):
        subject = f"person-{number}@example.org"
        seconds.append(timed(lambda s=subject: run.request(subjects=[s])))
        if number + 1 in marks:
            median = statistics.median(seconds[-SAMPLE:])
            waiting = {"waiting": number + 1, "request ms": 1000 * median}
            rows.append(waiting | {"queue s": timed(run.queue)})
    return rows


def of_blocks(run: ob.Run, fitted: float) -> dict[str, object]:
    """How long an exact replay of everything takes, and verifying everything."""
    first = run.trainer.layout.members(1)[:1].tolist()
    run.forget(records=first, method=ob.DeepObliviate(epsilon=9))
    erasure = [run.settle()]
    settled = erasure.pop().seconds
    verified = timed(lambda: _checked(run))
    return {
        "blocks": run.facts.blocks,
        "fit s": fitted,
        "settle s": settled,
        "verify s": verified,
        "ratio": verified / settled,
    }


def _checked(run: ob.Run) -> None:
    found = run.verify()
    assert found.passed
    assert len(found.reproduced) == run.facts.blocks + 1


def measure(folder: Path, blocks: int, requests: int, people: int) -> dict[str, str]:
    small, seconds = made(folder / "small", blocks // 10, 0)
    rows = [of_blocks(small, seconds)]
    run, seconds = made(folder / "large", blocks, people)
    previews = of_people(run, people)
    rows.append(of_blocks(run, seconds))
    waiting = of_requests(run, requests)
    return {
        "rows": table(rows, {"blocks": ""} | dict.fromkeys(SECONDS, ".1f") | {"ratio": ".2f"}),
        "waiting": table(waiting, {"waiting": "", "request ms": ".1f", "queue s": ".2f"}),
        "previews": table(previews, {"people": "", "preview s": ".2f"}),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=5_000)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--people", type=int, default=100_000)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        figures = measure(Path(place), chosen.blocks, chosen.requests, chosen.people)
    load = os.getloadavg()[2] / (os.cpu_count() or 1)
    write("scale", load=load, **figures)
