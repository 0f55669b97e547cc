"""Training on several processes, beside DistributedDataParallel over the same microbatches.

`python -m benchmarks.ranks`: nets of some sizes, 2 and 4 processes of one thread each, over gloo.
Both make the same steps on the same records, in turn, in the same processes; seconds are those of
the slower rank.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks.page import table, write
from obliviate.run.make import new_trainer
from obliviate.training.ranks import gathered

FEATURES, CLASSES, RECORDS, BATCH, MICROBATCHES = 256, 10, 4096, 128, 4
ROUNDS, BLOCKS = 6, 2
WIDTHS = {"0.3 million": 384, "1 million": 850, "4 million": 1850}
STEPS = BLOCKS * RECORDS // BATCH
NOBODY = np.array([], dtype=np.int64)


def net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, CLASSES),
    )


def recipe_of(width: int) -> ob.Recipe:
    return ob.Recipe(
        model=partial(net, width),
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        loss=nn.functional.cross_entropy,
        batch_size=BATCH,
        microbatches=MICROBATCHES,
        epochs=BLOCKS,
    )


def widths(count: int) -> dict[str, int]:
    """The nets; of many processes on few cores, the middle one alone."""
    return WIDTHS if count == 2 else {"1 million": WIDTHS["1 million"]}


def records() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(RECORDS, FEATURES, generator=generator)
    return TensorDataset(inputs, inputs[:, :CLASSES].argmax(1))


def by_ddp(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: list, data: TensorDataset
) -> float:
    """Seconds of all steps by DistributedDataParallel, which exchanges in the last part alone."""
    started = time.perf_counter()
    for indices in batches:
        parts = [data[index] for index in indices]
        optimizer.zero_grad(set_to_none=True)
        for inputs, targets in parts[:-1]:
            with model.no_sync():
                (nn.functional.cross_entropy(model(inputs), targets) / len(parts)).backward()
        inputs, targets = parts[-1]
        (nn.functional.cross_entropy(model(inputs), targets) / len(parts)).backward()
        optimizer.step()
    return time.perf_counter() - started


def enter(rank: int, count: int, port: int, folder: str) -> None:
    """One process: every net by both, in turn."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks, data = gathered(), records()
    lines = []
    for name, width in widths(count).items():
        recipe = recipe_of(width)
        trainer = new_trainer(recipe, data, RECORDS, 1)
        own = range(rank * MICROBATCHES // count, (rank + 1) * MICROBATCHES // count)
        batches: dict[tuple[int, int], list] = {}
        for block in range(1, BLOCKS + 1):
            for each in trainer.layout.microbatches(block, NOBODY):
                if each.number in own:
                    index = torch.from_numpy(each.records)
                    batches.setdefault((block, each.step), []).append(index)
        model = net(width)
        ddp = DistributedDataParallel(model)
        optimizer = recipe.optimizer(model.parameters())
        for number in range(ROUNDS):
            dist.barrier()
            seconds = [by_ddp(ddp, optimizer, list(batches.values()), data)]
            dist.barrier()
            seconds.append(shared(ranks, trainer))
            both = torch.tensor(seconds, dtype=torch.float64)
            dist.all_reduce(both, op=dist.ReduceOp.MAX)
            if number:  # the first is to warm up
                lines.append(f"{name},{both[0]},{both[1]}")
    if rank == 0:
        Path(folder, f"{count}.csv").write_text("\n".join(lines))
    dist.barrier()


def shared(ranks, trainer) -> float:
    """Seconds of all steps by all ranks, with the comparison behind each block."""
    started = time.perf_counter()
    with ranks.called("benchmark"):
        if ranks.is_leader:
            for _ in trainer.train(trainer.initial(), range(1, BLOCKS + 1), NOBODY):
                pass
        else:
            ranks.take(0)
            for _ in trainer.train(trainer.initial(), (), NOBODY):
                pass
    return time.perf_counter() - started


def run(count: int, folder: str) -> list[dict[str, object]]:
    """The medians of both, for each net."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=enter, args=(rank, count, port, folder)) for rank in range(count)
    ]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    lines = [line.split(",") for line in Path(folder, f"{count}.csv").read_text().splitlines()]
    rows = []
    for name in widths(count):
        ddp, ours = zip(*((float(a), float(b)) for net, a, b in lines if net == name), strict=True)
        ratios = [our / their for our, their in zip(ours, ddp, strict=True)]
        rows.append(
            {
                "processes": count,
                "parameters": name,
                "DDP ms a step": 1000 * statistics.median(ddp) / STEPS,
                "here ms a step": 1000 * statistics.median(ours) / STEPS,
                "ratio": statistics.median(ratios),
            }
        )
    return rows


def main() -> None:
    folder = tempfile.mkdtemp()
    try:
        rows = run(2, folder) + run(4, folder)
    finally:
        shutil.rmtree(folder)
    columns = {"processes": "", "parameters": "", "DDP ms a step": ".1f"}
    write("ranks", rows=table(rows, columns | {"here ms a step": ".1f", "ratio": ".2f"}))


if __name__ == "__main__":
    main()
