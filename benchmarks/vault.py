"""The vault: sizes, throughput, what keeping costs, and what an erasure rewrites.

`python -m benchmarks.vault --data FOLDER`, where the folder holds MNIST's four IDX files.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn
from torch.utils.data import Subset, TensorDataset

import obliviate as ob
from benchmarks import plain
from benchmarks.page import table, write
from benchmarks.paper import project
from obliviate.chain.spacing import Sizes
from obliviate.run.make import new_layout, new_trainer
from obliviate.states.update import update_between
from obliviate.training.protocol import Trained
from obliviate.vault import Vault
from obliviate.vault.codec import decode_update, encode_update
from obliviate.vault.frames import FRAME_BYTES
from obliviate.vault.planes import packed, unpack

BLOCKS, LONG, EARLY, ROUNDS = 100, 500, 125, 3
NOBODY = np.array([], dtype=np.int64)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))


def large() -> nn.Module:
    """100 million parameters."""
    inner = [layer for _ in range(11) for layer in (nn.ReLU(), nn.Linear(2900, 2900))]
    return nn.Sequential(nn.Linear(784, 2900), *inner, nn.ReLU(), nn.Linear(2900, 2800))


def recipes(folder: Path) -> dict[str, ob.Recipe]:
    conv = dataclasses.replace(project(data=str(folder)).recipe, repeats=1)
    sgd = dataclasses.replace(conv, model=mlp, optimizer=partial(torch.optim.SGD, lr=0.05))
    adam = dataclasses.replace(sgd, optimizer=partial(torch.optim.Adam, lr=1e-3))
    return {
        "MLP, SGD": sgd,
        "conv net, SGD with momentum": conv,
        "MLP, Adam": adam,
        "MLP, Adam carried": dataclasses.replace(adam, optimizer_state="carried"),
    }


def sizes(folder: Path) -> list[dict[str, object]]:
    """The chain on disk, beside one raw safetensors file a block."""
    data, rows = project(data=str(folder)).data, []
    for name, recipe in recipes(folder).items():
        with tempfile.TemporaryDirectory() as place:
            run = ob.fit(recipe, data, Path(place) / "run", blocks=BLOCKS)
            chain = run.chain()
            last = chain.checkpoint(BLOCKS)
            state = len(save(dict(last.model)))
            moments = len(save(dict(last.optimizer))) if last.optimizer else 0
            raw, stored = state + moments, run.stock().size_bytes()
            planned = Sizes.expected(state, moments).chain_bytes(BLOCKS, chain.spacing)
            rows.append(
                {
                    "net": name,
                    "raw MB": BLOCKS * raw / 1e6,
                    "chain MB": stored / 1e6,
                    "ratio": stored / (BLOCKS * raw),
                    "planned": planned / (BLOCKS * raw),
                }
            )
        print(rows[-1], flush=True)
    return rows


class Memory:
    """A place that is no disk."""

    name = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, list[bytes]] = {}

    def write(self, key, pieces) -> None:
        self.objects[key] = list(pieces)

    def read(self, key) -> bytes:
        self.objects[key] = [b"".join(self.objects[key])]  # the second time, as it is
        return self.objects[key][0]

    def destroy(self, key) -> None:
        self.objects.pop(key, None)

    def __iter__(self):
        return iter(self.objects)


def best(call, rounds: int = 5) -> float:
    """The shortest of some times: of what a machine can do, the least disturbed."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def throughput() -> list[dict[str, object]]:
    """GB/s of one core; to be run in a process of its own."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    old = {"a": torch.randn(25_000_000) * 0.02}
    noise = torch.randn(25_000_000) * torch.rand(25_000_000)
    update = update_between(old, {"a": old["a"] + 1e-4 * noise})
    raw = update.steps["a"].numpy().view(np.uint8)
    pieces = [memoryview(raw[at : at + FRAME_BYTES]) for at in range(0, len(raw), FRAME_BYTES)]

    def compress():
        return [packed(piece, 4) for piece in pieces]

    def decompress():
        target = memoryview(np.empty(len(raw), np.uint8))  # a state that is read is new memory
        for number, chunk in enumerate(chunks):
            at = number * FRAME_BYTES
            unpack(chunk, target[at : at + FRAME_BYTES])

    chunks = compress()
    vault = Vault(Memory())
    stored = vault.write(encode_update(update))
    gigabytes = len(raw) / 1e9
    speeds = {
        "written": (
            best(lambda: vault.write(encode_update(update))),
            best(compress),
        ),
        "read": (
            best(lambda: decode_update(vault.read(stored))),
            best(decompress),
        ),
    }
    return [
        {
            "what": what,
            "vault": gigabytes / ours,
            "planes alone": gigabytes / theirs,
            "share": theirs / ours,
        }
        for what, (ours, theirs) in speeds.items()
    ]


def keeping(folder: Path) -> list[dict[str, object]]:
    """`fit` beside the same training whose states are thrown away, in turn."""
    mnist, rows = project(data=str(folder)), []
    with tempfile.TemporaryDirectory() as place:  # so that no round waits for imports
        ob.fit(mnist.recipe, Subset(mnist.data, range(200)), place, blocks=2)
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as place:
            started = time.perf_counter()
            run = ob.fit(mnist.recipe, mnist.data, Path(place) / "run", blocks=BLOCKS)
            kept = time.perf_counter() - started
            trained = sum(entry.seconds for entry in run.chain().entries)
        trainer = new_trainer(mnist.recipe, mnist.data, len(mnist.data), BLOCKS)
        started = time.perf_counter()
        blocks = trainer.train(trainer.initial(), range(1, BLOCKS + 1), NOBODY)
        assert sum(isinstance(each, Trained) for each in blocks) == BLOCKS
        thrown = time.perf_counter() - started
        rows.append(
            {
                "round": number,
                "keeping s": kept,
                "nothing s": thrown,
                "ratio": kept / thrown,
                "within fit": kept / trained,
            }
        )
        print(rows[-1], flush=True)
    return rows


def erasing(folder: Path) -> list[dict[str, object]]:
    """What an erasure that replays 3 of 500 blocks touches and takes."""
    mnist, rows = project(data=str(folder)), []
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "made"
        run = ob.fit(mnist.recipe, mnist.data, made, blocks=LONG)
        record = int(run.trainer.layout.members(EARLY)[0])
        seconds_of = [entry.seconds for entry in run.chain().entries]
        rest, blocks = sum(seconds_of[EARLY + 3 :]), seconds_of[EARLY : EARLY + 3]
        run.ledger.close()
        for name, method in (
            ("paper", ob.DeepObliviate(blocks=3)),
            ("damped", ob.Calibrated(blocks=3)),
        ):
            copy = Path(place) / name
            shutil.copytree(made, copy)
            opened = ob.load(copy, mnist.recipe, mnist.data)
            before = opened.ledger.objects.keys("live")
            keyframes = sum(
                entry.keyframe is not None for entry in opened.chain().entries[EARLY + 3 :]
            )
            started = time.perf_counter()
            erasure = opened.forget(records=[record], method=method)
            seconds = time.perf_counter() - started
            assert erasure.blocks_replayed == 3
            rows.append(
                {
                    "stitch": name,
                    "objects": len(opened.ledger.objects.keys("live") - before),
                    "allowed": 3 + keyframes + 2,
                    "seconds": seconds,
                    "rewriting s": seconds - sum(blocks),
                    "replaying the rest s": rest,
                    "share": (seconds - sum(blocks)) / rest,
                }
            )
            print(rows[-1], flush=True)
            opened.ledger.close()
    return rows


def restoring(folder: Path) -> dict[str, float]:
    """Milliseconds to restore each state, and what reading a raw one takes."""
    mnist = project(data=str(folder))
    recipe = dataclasses.replace(mnist.recipe, repeats=1)  # states are as large after fewer epochs
    with tempfile.TemporaryDirectory() as place:
        raw = Path(place) / "raw.safetensors"
        chain = ob.fit(recipe, mnist.data, Path(place) / "run", blocks=LONG).chain()
        times = [1000 * best(partial(chain.state, block)) for block in range(LONG + 1)]
        save_file(dict(chain.state(LONG)), raw)
        goal = 2000 * best(lambda: load_file(raw)) + 20
    print(sorted(times)[-40:], flush=True)
    return {
        "updates": chain.spacing - 1,
        "worst": max(times),
        "most": float(np.quantile(times, 0.9)),
        "median": statistics.median(times),
        "within": 100 * statistics.mean(each <= goal for each in times),
        "goal": goal,
    }


def peak(what: str) -> dict[str, float]:
    """Peak memory in MB and seconds of one thing done with the large net; in its own process."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(400, 784, generator=generator),
        torch.randint(2800, (400,), generator=generator),
    )
    recipe = ob.Recipe(
        model=large,
        optimizer=partial(torch.optim.SGD, lr=0.01),
        loss=nn.functional.cross_entropy,
        batch_size=50,
    )
    started = time.perf_counter()
    if what == "loop":
        plain.train(recipe, data, new_layout(recipe, 400, 8))
    else:
        with tempfile.TemporaryDirectory() as folder:
            run = ob.fit(recipe, data, folder, blocks=8)
            if what != "fit":
                started = time.perf_counter()
                Path("/proc/self/clear_refs").write_text("5")  # the peak so far is fit's
                record = int(run.trainer.layout.members(3)[0])
                method = {"exact": "exact"}.get(what, ob.DeepObliviate(blocks=2))
                run.forget(records=[record], method=method)
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()
    return {"MB": int(status.partition("VmHWM:")[2].split()[0]) / 1024, "seconds": seconds}


def apart(*arguments: str):
    """What this module finds in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.vault", *arguments]
    # freed memory goes back to the system at once, so that the peak counts what is in use
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def large_rows() -> tuple[list[dict[str, object]], float]:
    state = sum(parameter.numel() for parameter in large().parameters()) * 4 / 2**20
    loop, rows = apart("--peak", "loop"), []
    for what in ("fit", "forget", "exact"):
        found = apart("--peak", what)
        rows.append(
            {
                "what": what,
                "seconds": found["seconds"],
                "peak MB": found["MB"],
                "loop MB": loop["MB"],
                "states above the loop": (found["MB"] - loop["MB"]) / state,
            }
        )
        print(rows[-1], flush=True)
    return rows, state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("OBLIVIATE_DATA", "data/mnist"))
    parser.add_argument("--part", choices=PARTS, help="one part alone")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--throughput", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peak:
        print(json.dumps(peak(chosen.peak)))
        return
    if chosen.throughput:
        print(json.dumps(throughput()))
        return
    for part in [chosen.part] if chosen.part else PARTS:
        PARTS[part](Path(chosen.data))


def size_part(folder: Path) -> None:
    columns = {"net": "", "raw MB": ".1f", "chain MB": ".1f", "ratio": ".3f", "planned": ".3f"}
    write("vault-size", sizes=table(sizes(folder), columns))


def memory_part(_folder: Path) -> None:
    peaks, state = large_rows()
    columns = {
        "what": "",
        "seconds": ".1f",
        "peak MB": ".0f",
        "loop MB": ".0f",
        "states above the loop": ".1f",
    }
    write("vault-memory", large_state=state, large=table(peaks, columns))


def speed_part(folder: Path) -> None:
    erasures = erasing(folder)
    fast = {"what": "", "vault": ".2f", "planes alone": ".2f", "share": ".0%"}
    beside = {
        "round": "",
        "keeping s": ".1f",
        "nothing s": ".1f",
        "ratio": ".3f",
        "within fit": ".3f",
    }
    rewritten = {
        "stitch": "",
        "objects": "",
        "allowed": "",
        "seconds": ".2f",
        "rewriting s": ".2f",
        "replaying the rest s": ".1f",
        "share": ".1%",
    }
    write(
        "vault-speed",
        throughput=table(apart("--throughput"), fast),
        keeping=table(keeping(folder), beside),
        early=EARLY,
        erasures=table(erasures, rewritten),
    )


def restore_part(folder: Path) -> None:
    write("vault-restore", **restoring(folder))


PARTS = {
    "size": size_part,
    "memory": memory_part,
    "speed": speed_part,
    "restore": restore_part,
}


if __name__ == "__main__":
    main()
