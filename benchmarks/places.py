"""One pass over MNIST, writer by writer: one digit or one writer forgotten, early, midway and late.

`python -m benchmarks.places --data MNIST`: a folder with MNIST's IDX files and the writers of its
digits. It takes a quarter of an hour of one core.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from examples import mnist

import obliviate as ob
from benchmarks import plain
from benchmarks.page import table, write
from obliviate.methods.registry import label_of, method_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obliviate.methods.method import Method


PLACES, EACH, BLOCKS = (30, 130, 250, 400, 475), 2, 500
METHODS = "calibrated:blocks=3", "deepobliviate"


def project(folder: str, seed: int) -> ob.Project:
    """A writer's digits lie in one block, and each block is gone through eight times.

    Blocks of one person each pull the model towards that person: with steps as large as those of
    the example, whose records may be scattered, it ends a point worse.
    """
    made = mnist.project(folder, f"{folder}/writers.npz", epochs="1", blocks=str(BLOCKS))
    recipe = replace(
        made.recipe,
        model=net,
        optimizer=partial(torch.optim.SGD, lr=0.015, momentum=0.9),
        schedule=falling,
        repeats=8,
        seed=seed,
    )
    return replace(made, recipe=recipe)


def falling(step: int, total: int) -> float:
    """From 1 to 0 over the whole chain, along a parabola."""
    return (1 - step / total) ** 2


def net() -> torch.nn.Module:
    """The example's net, in the memory format that a processor is fastest with."""
    return mnist.net().to(memory_format=torch.channels_last)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Seconds of the wall and of the processor, which other work on the machine disturbs less."""

    wall: float
    processor: float

    @classmethod
    def of(cls, call: Callable[[], Any]) -> tuple[Clock, Any]:
        """How long a call takes, and what it returns."""
        wall, processor = time.perf_counter(), time.process_time()
        found = call()
        spent = time.process_time() - processor
        return cls(wall=time.perf_counter() - wall, processor=spent), found


def original(setting: ob.Project, made: Path) -> dict[str, float]:
    """The run that is forgotten from: what it is worth, and what training alone took of it."""
    kept = made.with_name("facts.json")
    if kept.exists():
        return json.loads(kept.read_text())
    call = partial(ob.fit, setting.recipe, setting.data, made)
    took, run = Clock.of(partial(call, blocks=BLOCKS, subjects=setting.subjects))
    with run:
        training = sum(entry.seconds for entry in run.chain().entries)
        facts = {
            "accuracy": plain.accuracy(run.model, setting.test),
            "fit": took.wall,
            "retrain": training,
            "processor": took.processor * training / took.wall,
        }
    kept.write_text(json.dumps(facts))
    return facts


def asked(run: ob.Run, subjects: list[str]) -> Iterator[tuple[int, str, list[int]]]:
    """Place, kind and records of each request: of the blocks from each place on, by a seed."""
    rng, whose = np.random.default_rng(0), np.array(subjects)
    for place in PLACES:
        for block in range(place, place + EACH):
            members = np.sort(run.trainer.layout.members(block))
            record = int(rng.choice(members))
            writer = np.flatnonzero(whose == whose[record])
            yield place, "a digit", [record]
            yield place, "a writer", writer.tolist()


def rows_of(
    setting: ob.Project, made: Path, facts: dict[str, float], methods: list[Method]
) -> Iterator[dict[str, Any]]:
    """What each erasure took and left, each from a copy of the run."""
    with ob.load(made, setting.recipe, setting.data) as run:
        requests = list(asked(run, setting.subjects))
    for place, kind, records in requests:
        for method in methods:
            copy = shutil.copytree(made, made.with_name("copy"))
            with ob.load(copy, setting.recipe, setting.data) as run:
                took, erasure = Clock.of(partial(run.forget, records=records, method=method))
                accuracy = plain.accuracy(run.model, setting.test)
            shutil.rmtree(copy)
            yield {
                "place": place,
                "kind": kind,
                "method": label_of(method),
                "digits": len(records),
                "blocks": erasure.blocks_replayed,
                "wall": took.wall,
                "processor": took.processor,
                "faster": facts["retrain"] / took.wall,
                "faster in processor time": facts["processor"] / took.processor,
                "accuracy": accuracy,
            }


def merged(rows: list[dict[str, Any]]) -> list[dict[str, object]]:
    """A line for each place, kind and method: the worst and the mean of its requests."""
    lines: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["method"], row["kind"], row["place"]), []).append(row)
    return [
        {
            "method": method,
            "forgotten": kind,
            "from block": place,
            "digits": ", ".join(str(row["digits"]) for row in some),
            "blocks": max(row["blocks"] for row in some),
            "times fewer": BLOCKS / max(row["blocks"] for row in some),
            "seconds": mean(row["wall"] for row in some),
            "times faster": min(row["faster"] for row in some),
            "processor s": mean(row["processor"] for row in some),
            "times less of the processor": min(row["faster in processor time"] for row in some),
            "accuracy": ", ".join(f"{row['accuracy']:.2f}" for row in some),
        }
        for (method, kind, place), some in sorted(lines.items())
    ]


def section(rows: list[dict[str, Any]], facts: dict[str, float]) -> None:
    """Write what was found into the page."""
    ours = [row for row in rows if row["method"] == rows[0]["method"]]
    write(
        "places",
        each=EACH,
        method=rows[0]["method"],
        blocks=BLOCKS,
        least=BLOCKS / max(row["blocks"] for row in ours),
        fastest=min(row["faster"] for row in ours),
        cheapest=min(row["faster in processor time"] for row in ours),
        worst=min(row["accuracy"] for row in ours),
        table=table(
            merged(rows),
            {
                "method": "",
                "forgotten": "",
                "from block": "",
                "digits": "",
                "blocks": "",
                "times fewer": ".0f",
                "seconds": ".2f",
                "times faster": ".0f",
                "processor s": ".2f",
                "times less of the processor": ".0f",
                "accuracy": "",
            },
        ),
        **facts,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--run", type=Path, help="where to keep the run, for another time")
    parser.add_argument("--page", action="store_true", help="write the table into the page")
    given = parser.parse_args()
    methods = [method_of(each) for each in given.methods]
    setting, rows = project(given.data, given.seed), []
    with tempfile.TemporaryDirectory() as place:
        made = given.run or Path(place, "run")
        facts = original(setting, made)
        print(facts, flush=True)
        for row in rows_of(setting, made, facts, methods):
            rows.append(row)
            print(row, flush=True)
    if given.page:
        section(rows, facts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
