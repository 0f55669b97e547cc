"""Peak memory above the hand-written loop, in model states; each figure from its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks import plain
from obliviate.run.make import new_layout

RECORDS = 2_000


def net() -> nn.Module:
    """20 million parameters."""
    return nn.Sequential(
        nn.Linear(784, 3600),
        nn.ReLU(),
        nn.Linear(3600, 3600),
        nn.ReLU(),
        nn.Linear(3600, 1200),
        nn.Linear(1200, 10),
    )


RECIPE = ob.Recipe(
    model=net,
    optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    loss=nn.functional.cross_entropy,
    batch_size=50,
)


def measure(what: str, blocks: int) -> float:
    """Train, and return the peak resident memory in MB."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(RECORDS, 784, generator=generator),
        torch.randint(10, (RECORDS,), generator=generator),
    )
    if what == "loop":
        plain.train(RECIPE, data, new_layout(RECIPE, RECORDS, blocks))
    else:
        with tempfile.TemporaryDirectory() as folder:
            run = ob.fit(RECIPE, data, folder, blocks=blocks)
            if what == "forget":
                run.forget(records=[5])
    # not ru_maxrss: a process starts with the peak of the one that forked it
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measured_apart(what: str, blocks: int) -> float:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", what, str(blocks)]
    # freed memory goes back to the system at once, so that the peak counts what is in use
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    return float(json.loads(done.stdout))


def run() -> list[dict[str, object]]:
    """The rows of the table."""
    state = sum(parameter.numel() for parameter in net().parameters()) * 4 / 2**20
    rows = []
    for blocks in (5, 20):
        loop = measured_apart("loop", blocks)
        for what in ("fit", "forget"):
            peak = measured_apart(what, blocks)
            rows.append(
                {
                    "what": what,
                    "blocks": blocks,
                    "loop MB": round(loop),
                    "peak MB": round(peak),
                    "states above the loop": round((peak - loop) / state, 2),
                }
            )
    return rows


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
