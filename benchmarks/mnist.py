"""Full MNIST in 500 blocks: what erasing costs, and what the model is worth after it."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks import plain
from benchmarks.paper import project
from obliviate.run.make import new_layout

MISLABELLED = 20
EARLY, MIDDLE, LATE = 125, 250, 400


def with_wrong_labels(data: TensorDataset, records: list[int]) -> TensorDataset:
    """The same data with some labels moved on by one."""
    inputs, targets = data.tensors
    targets = targets.clone()
    targets[records] = (targets[records] + 1) % 10
    return TensorDataset(inputs, targets)


def requests(layout) -> dict[str, list[int]]:
    """Whom each erasure forgets: drawn by a seed, before anything is trained."""
    rng = np.random.default_rng(0)
    cases = {}
    for block in (EARLY, MIDDLE, LATE):
        members = rng.permutation(layout.members(block))
        cases[f"{MISLABELLED} mislabelled of block {block}"] = members[:MISLABELLED].tolist()
        cases[f"1 record of block {block}"] = members[MISLABELLED : MISLABELLED + 1].tolist()
        cases[f"10 records of block {block}"] = members[MISLABELLED + 1 : MISLABELLED + 11].tolist()
    return cases


def run(folder: Path) -> tuple[dict[str, object], list[dict[str, object]]]:
    """The facts of the original, and a row for each erasure."""
    mnist = project(data=str(folder))
    layout = new_layout(mnist.recipe, len(mnist.data), mnist.blocks)
    cases = requests(layout)
    wrong = [
        record for name, records in cases.items() if "mislabelled" in name for record in records
    ]
    data = with_wrong_labels(mnist.data, wrong)
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        original = ob.fit(mnist.recipe, data, Path(place) / "run", blocks=mnist.blocks)
        seconds = time.perf_counter() - started
        facts = {
            "accuracy": plain.accuracy(original.model, mnist.test),
            "fit seconds": seconds,
            "block seconds": seconds / mnist.blocks,
            "chain MB": sum(f.stat().st_size for f in Path(place).rglob("*") if f.is_file())
            / 2**20,
        }
        rows = [_row(Path(place), request, mnist, data, facts) for request in cases.items()]
    return facts, rows


def _row(place, request, mnist, data, facts):
    name, records = request
    found = {"request": name}
    for method in ("exact", "deepobliviate"):
        shutil.copytree(place / "run", place / method)
        opened = ob.load(place / method, mnist.recipe, data)
        started = time.perf_counter()
        erasure = opened.forget(records=records, method=method)
        seconds = time.perf_counter() - started
        accuracy = plain.accuracy(erasure.model, mnist.test)
        if method == "exact":
            found |= {"exact seconds": seconds, "exact accuracy": accuracy}
            block_seconds = seconds / erasure.blocks_replayed  # a moment before the fast one
        else:
            reading = reading_seconds(opened, records)
            allowed = erasure.blocks_replayed * block_seconds + reading
            found |= {
                "blocks": erasure.blocks_replayed,
                "speedup in blocks": erasure.blocks_total / erasure.blocks_replayed,
                "seconds": seconds,
                "speedup": facts["fit seconds"] / seconds,
                "overhead": seconds / allowed,
                "accuracy": accuracy,
                "stop": erasure.stop_reason,
            }
        opened.ledger.close()
        shutil.rmtree(place / method)
    print(found, flush=True)
    return found


def reading_seconds(run, records):
    """Seconds to read the two checkpoints that no erasure can do without."""
    block = int(run.trainer.layout.places(np.array(records)).earliest.min())
    started = time.perf_counter()
    chain = run.chain()
    chain.state(block - 1)
    chain.state(chain.blocks)
    return time.perf_counter() - started


if __name__ == "__main__":
    import sys

    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    print(run(Path(sys.argv[1])))
