"""What a replay begins with behind a stitch: the moments that were stored there, or none.

`python -m benchmarks.moments --data FOLDER --writers FILE`, where FOLDER holds MNIST's IDX files.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import torch
from examples.mnist import project
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks import plain
from benchmarks.page import table, write
from obliviate.methods.owned import Owned

RECORDS, EPOCHS, BLOCKS, PEOPLE = 12_000, 4, 40, 6
OPTIMIZERS = {
    "momentum": partial(torch.optim.SGD, lr=0.03, momentum=0.9),
    "Adam": partial(torch.optim.Adam, lr=1e-3),
}


def net() -> nn.Module:
    """28,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, 2),
        nn.ReLU(),
        nn.Conv2d(12, 24, 5, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(384, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )


def some_writers(mnist: ob.Project) -> tuple[TensorDataset, list[str]]:
    """The digits of the first writers, and who wrote each."""
    names, first = np.unique(mnist.subjects, return_index=True)
    sizes = np.array([np.sum(np.array(mnist.subjects) == name) for name in names])
    order = np.argsort(first)
    chosen = names[order][np.cumsum(sizes[order]) <= RECORDS]
    at = np.flatnonzero(np.isin(mnist.subjects, chosen))
    return TensorDataset(*(each[at] for each in mnist.data.tensors)), [
        mnist.subjects[each] for each in at
    ]


def apart(one: nn.Module, other: nn.Module) -> float:
    """The L1 distance of two models."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return sum(float((left - right).detach().abs().sum()) for left, right in pairs)


def forgotten(made: Path, recipe, data, person: str, method, *, is_stored: bool = True):
    """The model after forgetting a person, from a copy of a run; and how many blocks it took."""
    copy = made.parent / "copy"
    shutil.copytree(made, copy)
    none = mock.patch.object(Owned, "untrained", return_value=None)
    with ob.load(copy, recipe, data) as run, none if not is_stored else mock.MagicMock():
        erasure = run.forget(subjects=[person], method=method)
    model = erasure.model
    shutil.rmtree(copy)
    return model, erasure.blocks_replayed


def rows_of(name: str, folder: Path, mnist: ob.Project) -> list[dict[str, object]]:
    """Both ways for each person, with one optimizer."""
    data, subjects = some_writers(mnist)
    recipe = ob.Recipe(
        model=net,
        optimizer=OPTIMIZERS[name],
        loss=nn.functional.cross_entropy,
        schedule=mnist.recipe.schedule,
        epochs=EPOCHS,
    )
    made = folder / name
    ob.fit(recipe, data, made, blocks=BLOCKS, subjects=subjects, keep=EPOCHS).close()
    people = np.random.default_rng(0).permutation(sorted(set(subjects)))[:PEOPLE].tolist()
    exact = {each: forgotten(made, recipe, data, each, "exact")[0] for each in people}
    rows = []
    for goes_back, options in {"all epochs": {}, "two epochs": {"back": 2}}.items():
        for begins_with in ("none", "stored"):
            found = []
            for person in people:
                method, is_stored = ob.DeepObliviate(**options), begins_with == "stored"
                model, blocks = forgotten(made, recipe, data, person, method, is_stored=is_stored)
                far = apart(model, exact[person])
                found.append((blocks, far, plain.accuracy(model, mnist.test)))
            blocks, far, accuracy = (median(each) for each in zip(*found, strict=True))
            rows.append(
                {
                    "optimizer": name,
                    "goes back": goes_back,
                    "begins with": begins_with,
                    "blocks": blocks,
                    "from exact": far,
                    "accuracy": accuracy,
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--writers", required=True)
    given = parser.parse_args()
    mnist = project(given.data, given.writers)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in OPTIMIZERS for row in rows_of(name, Path(folder), mnist)]
    columns = {
        "optimizer": "",
        "goes back": "",
        "begins with": "",
        "blocks": "g",
        "from exact": ".0f",
        "accuracy": ".2f",
    }
    write("moments", people=PEOPLE, table=table(rows, columns))


if __name__ == "__main__":
    main()
