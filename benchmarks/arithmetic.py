"""Hold `estimate` against a run that was made: `python -m benchmarks.arithmetic`."""

from __future__ import annotations

import statistics
import time
from functools import partial

import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks.page import table, write
from obliviate.disk.scratch import scratch
from obliviate.forecast.estimate import Plan, estimate_of
from obliviate.states.update import digest

WIDTH, RECORDS, BATCH, BLOCKS, EPOCHS, PEOPLE = 1000, 8000, 40, 20, 2, 4
HASHED = 50_000_000


def net() -> nn.Module:
    body = [nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(nn.Linear(50, WIDTH), nn.ReLU(), *body, nn.Linear(WIDTH, 5))


def hashed() -> float:
    """GB a second of processor time."""
    state = {"base": torch.randn(HASHED // 4)}
    digest(state)
    begun = time.process_time()
    digest(state)
    return HASHED / 1e9 / (time.process_time() - begun)


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(RECORDS, 50, generator=generator)
    data = TensorDataset(inputs, inputs[:, :5].argmax(dim=1))
    recipe = ob.Recipe(
        model=net,
        optimizer=partial(torch.optim.Adam, lr=1e-4),
        loss=nn.functional.cross_entropy,
        batch_size=BATCH,
        epochs=EPOCHS,
    )
    with scratch() as folder, ob.fit(recipe, data, folder / "run", blocks=BLOCKS) as run:
        training = sum(entry.seconds for entry in run.chain().entries)
        kept = sum(each.stat().st_size for each in (folder / "run" / "vault").rglob("*"))
        moments, replayed, fast = 2.0, [], []
        for person in range(PEOPLE):
            erasure = run.forget(records=[person * RECORDS // PEOPLE + 7], method="deepobliviate")
            fast.append(erasure.seconds)
            replayed.append(erasure.blocks_replayed / EPOCHS)
        settled = run.settle().seconds
    plan = Plan(
        parameters=sum(each.numel() for each in net().parameters()),
        moments=moments,
        steps=RECORDS // BATCH,
        step_seconds=training / EPOCHS / (RECORDS // BATCH),
        epochs=EPOCHS,
        blocks=BLOCKS,
        lag=statistics.mean(replayed),
    )
    told = estimate_of(plan)
    rows: list[dict[str, object]] = [
        {"what": "chain, MB", "worked out": told.chain_bytes / 1e6, "measured": kept / 1e6},
        {
            "what": "to forget, s",
            "worked out": told.forget.seconds,
            "measured": statistics.mean(fast),
        },
        {"what": "to settle, s", "worked out": told.settle.seconds, "measured": settled},
    ]
    for row in rows:
        row["ratio"] = float(str(row["worked out"])) / float(str(row["measured"]))
        print(row)
    write(
        "arithmetic",
        rows=table(rows, {"what": "", "worked out": ".1f", "measured": ".1f", "ratio": ".2f"}),
        parameters=plan.parameters / 1e6,
        epochs=EPOCHS,
        blocks=BLOCKS,
        people=PEOPLE,
        step=1000 * plan.step_seconds,
        lag=plan.lag,
        hashed=hashed(),
    )


if __name__ == "__main__":
    main()
