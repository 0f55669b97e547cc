"""Ten people, one after another, in the other order, and all at once.

`python -m benchmarks.ten --data FOLDER --writers FILE`
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from examples.mnist import project
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks import plain
from benchmarks.page import table, write
from obliviate.methods.scores import margins

if TYPE_CHECKING:
    from torch import Tensor, nn

RECORDS, EPOCHS, BLOCKS, PEOPLE, WRONG, SEEDS = 10_000, 8, 20, 10, 20, 3
REFERENCES = 5000  # of the test digits; the others are tested on


def cohort(mnist: ob.Project, seed: int) -> tuple[TensorDataset, list[str], dict[str, Tensor]]:
    """Some writers' digits, of ten of whom twenty have a wrong label: data, writers, those."""
    rng = np.random.default_rng(seed)
    writers = rng.permutation(sorted(set(mnist.subjects)))
    at = {who: np.flatnonzero(np.array(mnist.subjects) == who) for who in writers}
    ids = np.concatenate([at[who] for who in writers])[:RECORDS]
    inputs, labels = (each[torch.from_numpy(ids)] for each in mnist.data.tensors)
    whose = [mnist.subjects[each] for each in ids]
    chosen = [who for who in writers if whose.count(who) >= WRONG][:PEOPLE]
    theirs = {}
    for who in chosen:
        rows = torch.from_numpy(np.flatnonzero(np.array(whose) == who)[:WRONG])
        labels[rows] = (labels[rows] + 1 + torch.from_numpy(rng.integers(9, size=WRONG))) % 10
        theirs[who] = rows
    return TensorDataset(inputs, labels), whose, theirs


def scored(model: nn.Module, data: TensorDataset, rows: Tensor) -> np.ndarray:
    """The margins of some records."""
    inputs, labels = (each[rows] for each in data.tensors)
    with torch.no_grad():
        return margins(model(inputs), labels).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--writers", required=True)
    given = parser.parse_args()
    mnist = project(given.data, given.writers, str(EPOCHS), str(BLOCKS))
    reference, test = (
        TensorDataset(*(each[part] for each in mnist.test.tensors))
        for part in (slice(REFERENCES), slice(REFERENCES, None))
    )
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(SEEDS):
        data, whose, theirs = cohort(mnist, seed)
        recipe, people = replace(mnist.recipe, seed=seed), list(theirs)
        rows = torch.cat(list(theirs.values()))
        orders = {
            "one after another": [[who] for who in people],
            "in the other order": [[who] for who in reversed(people)],
            "all at once": [people],
        }
        with tempfile.TemporaryDirectory() as place:
            made = Path(place) / "made"
            run = ob.fit(recipe, data, made, blocks=BLOCKS, subjects=whose, reference=reference)
            original = scored(run.model, data, rows)
            before = plain.accuracy(run.model, test)
            run.close()
            outcomes = {}
            for name, requests in orders.items():
                copy = Path(place) / "copy"
                shutil.copytree(made, copy)
                with ob.load(copy, recipe, data, reference=reference) as run:
                    blocks = [run.forget(subjects=each).blocks_replayed for each in requests]
                    outcomes[name] = (
                        scored(run.model, data, rows),
                        plain.accuracy(run.model, test),
                        sum(blocks),
                    )
                    if name == "all at once":
                        run.settle()
                        exact = scored(run.model, data, rows)
                        accuracy = plain.accuracy(run.model, test)
                shutil.rmtree(copy)
        outcomes = {"the original": (original, before, 0)} | outcomes
        outcomes["exact"] = (exact, accuracy, EPOCHS * BLOCKS)
        for name, (scores, tested, count) in outcomes.items():
            found.setdefault(name, []).append(
                {
                    "mean score": float(scores.mean()),
                    "distance": float(np.abs(scores - exact).mean()),
                    "accuracy": tested,
                    "blocks": count,
                }
            )
    rows_told = [
        {"forgotten": name}
        | {what: float(np.mean([each[what] for each in some])) for what in some[0]}
        for name, some in found.items()
    ]
    write(
        "ten",
        records=RECORDS,
        epochs=EPOCHS,
        blocks=BLOCKS,
        people=PEOPLE,
        wrong=WRONG,
        seeds=SEEDS,
        table=table(
            rows_told,
            {
                "forgotten": "",
                "mean score": ".1f",
                "distance": ".1f",
                "accuracy": ".2f",
                "blocks": ".0f",
            },
        ),
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
