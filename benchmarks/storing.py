"""Storing large states as fast as they are taken: speed, memory and what is left of the bytes.

`python -m benchmarks.storing`: every row in a process of its own. Files go to the temporary folder:
`TMPDIR=/dev/shm` leaves the disk out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.page import table, write
from obliviate.chain.chain import Chain
from obliviate.events import Event
from obliviate.ledger import Entry
from obliviate.run.onward import training_on
from obliviate.states.memory import Memory
from obliviate.states.update import captured, digest, size_bytes
from obliviate.training.protocol import Checkpoint, Trained
from obliviate.vault import Vault
from obliviate.vault.ahead import cores
from obliviate.vault.codec import encode
from obliviate.vault.folder import Folder

STATE_BYTES, LAYERS, BLOCKS = 400_000_000, 16, 10
NOBODY = np.array([], dtype=np.int64)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Feed:
    """Takes states one after the other as a trainer does, and trains nothing."""

    def __init__(self, dtype: torch.dtype, moments: int) -> None:
        size = STATE_BYTES // dtype.itemsize // LAYERS
        torch.manual_seed(0)

        def noise() -> torch.Tensor:
            return torch.randn(size) * torch.rand(size)

        self.live = {str(at): (0.02 * torch.randn(size)).to(dtype) for at in range(LAYERS)}
        step = {name: (1e-4 * noise()).to(dtype) for name in self.live}
        # two states by turns: nothing is worked out while the time is taken
        self.turns = self.live, {name: each + step[name] for name, each in self.live.items()}
        self.moments = {
            f"{number}/{name}": (1e-3 * noise()).to(dtype)
            for number in range(moments)
            for name in self.live
        }
        self.parameters = frozenset(self.live)
        self.environment = SimpleNamespace(threads=1)
        self.started = self.worked = 0.0

    def train(self, start, blocks, _erased):
        del start
        memory = Memory()
        self.started, self.worked = time.perf_counter(), time.process_time()
        for block in list(blocks)[:BLOCKS]:
            live = self.turns[block % 2]
            yield Event(task="block", done=1, total=1, block=block)
            moments = captured(self.moments, memory) if self.moments else None
            checkpoint = Checkpoint(model=captured(live, memory), optimizer=moments)
            yield Trained(block=block, checkpoint=checkpoint, loss=0.0, seconds=0.0)
            del checkpoint, moments


def memory_bytes(what: str) -> int:
    """Resident memory, "VmRSS", or its peak, "VmHWM"."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{what}:")[2].split()[0]) * 1024


def measure(dtype: str, moments: int) -> dict[str, object]:
    """One row; in its own process."""
    torch.set_num_threads(1)
    feed = Feed(DTYPES[dtype], moments)
    with tempfile.TemporaryDirectory() as place:
        vault = Vault(Folder(Path(place)))
        first = Entry(
            block=0,
            origin="initial",
            guarantee="exact",
            digest=digest(feed.live),
            keyframe=vault.write(encode(feed.live)),
        )
        rows = SimpleNamespace(entries=lambda: [first], append=lambda *_: None)
        chain = Chain(SimpleNamespace(chain=rows), vault, blocks=1000, spacing=1000)
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is of making the states
        before = memory_bytes("VmRSS")
        for _ in training_on(chain, feed, NOBODY, guarantee="exact"):
            pass
        seconds, worked = time.perf_counter() - feed.started, time.process_time() - feed.worked
        stored = [
            each
            for entry in chain.entries[1:]
            for each in (entry.update, entry.optimizer)
            if each is not None
        ]
    taken = BLOCKS * (size_bytes(feed.live) + size_bytes(feed.moments))
    return {
        "state": dtype,
        "moments": moments,
        "GB/s": taken / seconds / 1e9,
        "GB/s of a core": taken / worked / 1e9,
        "cores": worked / seconds,
        "states of memory": (memory_bytes("VmHWM") - before) / STATE_BYTES,
        "ratio": sum(each.size_bytes for each in stored) / taken,
    }


def apart(*arguments: str) -> dict[str, object]:
    """A row, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.storing", "--row", *arguments]
    # freed memory goes back to the system at once, so that the peak counts what is in use
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.row:
        print(json.dumps(measure(chosen.row[0], int(chosen.row[1]))))
        return
    rows = []
    for dtype in DTYPES:
        for moments in (0, 1, 2):
            rows.append(apart(dtype, str(moments)))
            print(rows[-1], flush=True)
    columns = {
        "state": "",
        "moments": "",
        "GB/s": ".2f",
        "GB/s of a core": ".2f",
        "cores": ".1f",
        "states of memory": ".1f",
        "ratio": ".3f",
    }
    write(
        "storing",
        state_mb=STATE_BYTES // 10**6,
        cores=cores(),
        place=tempfile.gettempdir(),
        rows=table(rows, columns),
    )


if __name__ == "__main__":
    main()
