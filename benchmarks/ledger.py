"""The ledger at scale: millions of records and people, in a file and on a server.

`python -m benchmarks.ledger --records 10000000 --subjects 1000000 [--url postgresql+psycopg://...]`
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sqlalchemy import create_engine, text
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks.page import table, write
from benchmarks.server import a_server
from obliviate.recipe.subjects import Subjects
from obliviate.run.make import make
from obliviate.vault import VaultSettings

PREVIEWS = 300


def recipe() -> ob.Recipe:
    return ob.Recipe(
        model=partial(torch.nn.Linear, 2, 1),
        optimizer=partial(torch.optim.SGD, lr=0.01),
        loss=torch.nn.functional.mse_loss,
        batch_size=10_000,
    )


def data(records: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(records, 2, generator=generator)
    return TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))


def timed_making(folder: Path, records: int, people: list[str], url: str | None) -> float:
    """Seconds that making the run takes: layout, keyed hashes and ledger, before any training."""
    started = time.perf_counter()
    make(
        folder,
        recipe(),
        data(records),
        blocks=500,
        keep=None,
        subjects=Subjects.of(people, records),
        left_out=np.array([], dtype=np.int64),
        project=None,
        tombstones={},
        ledger=url,
        settings=VaultSettings.new(None, None),
    )
    return time.perf_counter() - started


def ledger_bytes(folder: Path, url: str | None) -> int:
    """How much of the disk the tables and indexes take."""
    if url is None:
        return sum(path.stat().st_size for path in folder.glob("ledger.sqlite*"))
    tables = ("records", "subjects", "further", "journal", "parts", "samples", "erased", "chain")
    names = ", ".join(f"'{name}'" for name in (*tables, "objects"))
    query = f"SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relname IN ({names})"
    with create_engine(url).connect() as connection:
        return int(connection.execute(text(query)).scalar_one())


def measure(place: Path, records: int, subjects: int, url: str | None) -> dict[str, object]:
    numbers = np.random.default_rng(0).integers(0, subjects, records)
    names = [f"person-{number}@example.org" for number in range(subjects)]
    people = [names[number] for number in numbers.tolist()]
    folder = place / ("server" if url else "file")
    making = timed_making(folder, records, people, url)
    run = ob.fit(recipe(), data(records), folder, blocks=500)

    dataset = data(records)
    opening = []
    for _ in range(5):
        started = time.perf_counter()
        run = ob.load(folder, recipe(), dataset)
        opening.append(time.perf_counter() - started)

    previews = []
    for person in np.random.default_rng(1).choice(numbers, PREVIEWS):
        started = time.perf_counter()
        plan = run.preview(subjects=[names[person]])
        previews.append(time.perf_counter() - started)
        assert plan.records
    erased = int(numbers[0])
    started = time.perf_counter()
    run.forget(subjects=[names[erased]], method="exact")
    return {
        "where": "PostgreSQL" if url else "SQLite",
        "making s": making,
        "opening ms": 1000 * float(np.median(opening)),
        "preview p50 ms": 1000 * float(np.percentile(previews, 50)),
        "preview p99 ms": 1000 * float(np.percentile(previews, 99)),
        "bytes a record": ledger_bytes(folder, url) / records,
        "forget s": time.perf_counter() - started,
    }


def run(records: int, subjects: int) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as place, a_server() as url:
        return [measure(Path(place), records, subjects, each) for each in (None, url)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--subjects", type=int, default=1_000_000)
    chosen = parser.parse_args()
    os.environ.setdefault("PGCONNECT_TIMEOUT", "10")
    rows = run(chosen.records, chosen.subjects)
    columns = {
        "where": "",
        "making s": ".0f",
        "opening ms": ".0f",
        "preview p50 ms": ".1f",
        "preview p99 ms": ".1f",
        "bytes a record": ".1f",
        "forget s": ".1f",
    }
    write("ledger", records=chosen.records, subjects=chosen.subjects, rows=table(rows, columns))
