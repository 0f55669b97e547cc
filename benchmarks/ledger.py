"""The ledger at scale: millions of records and people, in a file and on a server.

`python -m benchmarks.ledger --records 10000000 --subjects 1000000 --epochs 20`
"""

from __future__ import annotations

import argparse
import os
import secrets
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sqlalchemy import create_engine, text
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks.page import table, write
from benchmarks.server import a_server
from obliviate.ledger import Entry, Ledger, tables
from obliviate.recipe.contents import NOTHING
from obliviate.recipe.subjects import Subjects
from obliviate.run.make import make
from obliviate.vault import VaultSettings
from obliviate.vault.vault import Stored

if TYPE_CHECKING:
    from obliviate.recipe.parts import Part

BLOCKS, GROUP, PREVIEWS, OPENINGS = 500, 100, 300, 5


def recipe(epochs: int = 1) -> ob.Recipe:
    return ob.Recipe(
        model=partial(torch.nn.Linear, 2, 1),
        optimizer=partial(torch.optim.SGD, lr=0.01),
        loss=torch.nn.functional.mse_loss,
        batch_size=10_000,
        epochs=epochs,
    )


def data(records: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(records, 2, generator=generator)
    return TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))


def timed_making(
    folder: Path, records: int, people: list[str], url: str | None, epochs: int = 1
) -> float:
    """Seconds that making the run takes: layout, keyed hashes and ledger, before any training."""
    started = time.perf_counter()
    make(
        folder,
        recipe(epochs),
        data(records),
        blocks=BLOCKS,
        keep=None,
        subjects=Subjects.of(people, records),
        left_out=np.array([], dtype=np.int64),
        project=None,
        tombstones={},
        ledger=url,
        settings=VaultSettings.new(None, None),
    )
    return time.perf_counter() - started


def stored() -> Stored:
    """An object that was never written: the ledger knows objects by these facts alone."""
    return Stored(key=secrets.token_hex(16), size_bytes=1_000, hash=secrets.token_hex(32))


def trained(part: Part, block: int) -> Entry:
    """What the ledger keeps of a block."""
    has_keyframe = part.needs_keyframe(block) or block == part.length
    return Entry(
        block=block,
        origin="trained",
        guarantee="exact",
        digest=secrets.token_hex(32),
        loss=1.0,
        seconds=1.0,
        update=stored() if block >= part.full_from else None,
        keyframe=stored() if has_keyframe else None,
    )


def write_chain(folder: Path) -> float:
    """Write every block down as training does, in groups, without training.

    Returns:
        The seconds for one block.
    """
    ledger = Ledger(folder)
    part = ledger.run().parts[0]
    entries = [trained(part, block) for block in range(1, part.length + 1)]
    hashes = {
        block: secrets.token_bytes(NOTHING.itemsize * size)
        for block, size in enumerate(part.planned_sizes.tolist(), start=1)
    }
    started = time.perf_counter()
    for at in range(0, part.length, GROUP):
        some = entries[at : at + GROUP]
        ledger.chain.append(some, {entry.block: hashes[entry.block] for entry in some})
    ledger.close()
    return (time.perf_counter() - started) / part.length


def ledger_bytes(folder: Path, url: str | None) -> int:
    """How much of the disk the tables and indexes take."""
    if url is None:
        return sum(path.stat().st_size for path in folder.glob("ledger.sqlite*"))
    names = ", ".join(f"'{name}'" for name in tables.metadata.tables)
    query = f"SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relname IN ({names})"
    with create_engine(url).connect() as connection:
        return int(connection.execute(text(query)).scalar_one())


def measure(
    place: Path, records: int, subjects: int, epochs: int, url: str | None
) -> dict[str, object]:
    numbers = np.random.default_rng(0).integers(0, subjects, records)
    names = [f"person-{number}@example.org" for number in range(subjects)]
    people = [names[number] for number in numbers.tolist()]
    folder = place / ("server" if url else "file")
    began = time.process_time()
    making = timed_making(folder, records, people, url, epochs)
    making_cpu = time.process_time() - began
    del people
    writing = write_chain(folder)

    dataset, opening = data(records), []
    for _ in range(OPENINGS):
        started = time.perf_counter()
        run = ob.load(folder, recipe(epochs), dataset)
        opening.append(time.perf_counter() - started)

    previews, previews_cpu = [], []
    for person in np.random.default_rng(1).choice(numbers, PREVIEWS):
        started, began = time.perf_counter(), time.process_time()
        plan = run.preview(subjects=[names[person]])
        previews.append(time.perf_counter() - started)
        previews_cpu.append(time.process_time() - began)
        assert plan.records
    row = {
        "where": "PostgreSQL" if url else "SQLite",
        "making s": making,
        "processor s": making_cpu,
        "ms a block": 1000 * writing,
        "opening ms": 1000 * float(np.median(opening)),
        "preview p50 ms": 1000 * float(np.percentile(previews, 50)),
        "preview p99 ms": 1000 * float(np.percentile(previews, 99)),
        "processor p99 ms": 1000 * float(np.percentile(previews_cpu, 99)),
        "bytes a record": ledger_bytes(folder, url) / records,
    }
    print(row, flush=True)
    return row


def run(records: int, subjects: int, epochs: int, *, on_server: bool) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(Path(folder), records, subjects, epochs, None)]
    if on_server:
        with tempfile.TemporaryDirectory() as folder, a_server() as url:
            rows.append(measure(Path(folder), records, subjects, epochs, url))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--subjects", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--no-server", action="store_true", help="in a file alone")
    chosen = parser.parse_args()
    os.environ.setdefault("PGCONNECT_TIMEOUT", "10")
    rows = run(chosen.records, chosen.subjects, chosen.epochs, on_server=not chosen.no_server)
    columns = {
        "where": "",
        "making s": ".0f",
        "processor s": ".0f",
        "ms a block": ".1f",
        "opening ms": ".0f",
        "preview p50 ms": ".1f",
        "preview p99 ms": ".1f",
        "processor p99 ms": ".1f",
        "bytes a record": ".1f",
    }
    write(
        "ledger",
        records=chosen.records,
        subjects=chosen.subjects,
        epochs=chosen.epochs,
        blocks=BLOCKS,
        previews=PREVIEWS,
        group=GROUP,
        hash_bytes=NOTHING.itemsize,
        load=os.getloadavg()[2] / (os.cpu_count() or 1),
        rows=table(rows, columns),
    )
