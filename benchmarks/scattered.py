"""People together beside records scattered: what each way of dealing is worth.

`python -m benchmarks.scattered --data FOLDER`, where the folder holds mnist/, the IDX files and
writers.npz, and online_retail/baskets.npz.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from examples import mnist
from sklearn.cluster import KMeans
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks import plain
from benchmarks.page import table, write
from obliviate.datasets import idx_folder
from obliviate.recipe.deal import groups_of
from obliviate.recipe.subjects import Subjects
from obliviate.run.make import new_layout

EPOCHS, BLOCKS = 10, 20
DEALS = ("subject", "record")
RATES = (0.003, 0.01, 0.03, 0.1)
KINDS = 20  # of baskets


@dataclass(frozen=True)
class Task:
    """Records, whose each is, and others to choose a learning rate on and to test on."""

    name: str
    hidden: int
    data: TensorDataset
    people: list[str]
    validation: TensorDataset
    test: TensorDataset

    def recipe(self, rate: float, **options: object) -> ob.Recipe:
        inputs, targets = self.data.tensors
        return ob.Recipe(
            model=partial(net, inputs[0].numel(), self.hidden, int(targets.max()) + 1),
            optimizer=partial(torch.optim.SGD, lr=rate, momentum=0.9),
            loss=nn.functional.cross_entropy,
            schedule=mnist.cosine,
            batch_size=64,
            epochs=EPOCHS,
            optimizer_state="carried",
            **options,
        )


def net(inputs: int, hidden: int, classes: int) -> nn.Module:
    """One hidden layer."""
    layers = (nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    return nn.Sequential(nn.Flatten(), *layers)


def some(data: TensorDataset, rows: np.ndarray) -> TensorDataset:
    return TensorDataset(*(tensor[torch.from_numpy(rows)] for tensor in data.tensors))


def apart(name: str, data: TensorDataset, people: np.ndarray, test: TensorDataset | None) -> Task:
    """A task in which nobody who is trained on is among those whom the rate is chosen on."""
    everybody = np.random.default_rng(0).permutation(np.unique(people))
    tenth = len(everybody) // 10
    validation = np.isin(people, everybody[:tenth])
    tested = np.isin(people, everybody[tenth : 3 * tenth]) & (test is None)
    rest = ~(validation | tested)
    return Task(
        name=name,
        hidden=128,
        data=some(data, np.flatnonzero(rest)),
        people=[f"person-{number}" for number in people[rest].tolist()],
        validation=some(data, np.flatnonzero(validation)),
        test=some(data, np.flatnonzero(tested)) if test is None else test,
    )


def digits(folder: Path) -> Task:
    """MNIST's digits by their writers."""
    data, test = (mnist.standardised(idx_folder(folder, split)) for split in ("train", "test"))
    with np.load(folder / "writers.npz") as arrays:
        return apart("MNIST, writers", data, arrays["train"], test)


def baskets(folder: Path) -> Task:
    """Online Retail's baskets by their customers; what kind each is, k-means says."""
    with np.load(folder / "baskets.npz") as arrays:
        bought = np.unpackbits(arrays["baskets"], axis=1).astype(np.float32)
        customers = arrays["customer"]
    kinds = KMeans(KINDS, n_init=1, random_state=0).fit_predict(bought)
    data = TensorDataset(torch.from_numpy(bought), torch.from_numpy(kinds).long())
    return apart("Online Retail, customers", data, customers, None)


def chosen_rate(task: Task) -> float:
    """The learning rate that ordinary shuffled training does best with, on the validation."""
    found = {}
    for rate in RATES:
        torch.manual_seed(99)
        model = plain.train_shuffled(task.recipe(rate), task.data)
        found[rate] = plain.accuracy(model, task.validation)
    print(task.name, found, flush=True)
    return max(found, key=found.get)


def dealt(task: Task, recipe: ob.Recipe) -> float:
    """Test accuracy of a chain."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run")
        with ob.fit(recipe, task.data, path, blocks=BLOCKS, subjects=task.people) as run:
            return plain.accuracy(run.model, task.test)


def positions(task: Task, recipe: ob.Recipe) -> float:
    """In how many blocks of the chain a person is, in the median."""
    subjects = Subjects.of(task.people, len(task.people))
    places = new_layout(recipe, len(subjects), BLOCKS, subjects).places(np.arange(len(subjects)))
    groups = groups_of(subjects)
    its = (np.flatnonzero(groups == group) for group in np.unique(groups))
    return float(np.median([len(places.of(rows).touched) for rows in its]))


def rows_of(task: Task, rate: float, seeds: int) -> list[dict[str, object]]:
    rows = []
    for seed in range(seeds):
        recipe = task.recipe(rate, seed=seed)
        together, scattered = (dealt(task, replace(recipe, deal=deal)) for deal in DEALS)
        rows.append({"seed": seed, "together": together, "scattered": scattered})
        print(task.name, rows[-1], flush=True)
    return rows


def averaged(task: Task, rate: float, rows: list[dict[str, object]]) -> dict[str, object]:
    """The rows of one task as one, with the standard error of the gap."""
    gaps = [float(row["together"]) - float(row["scattered"]) for row in rows]
    lies_in = [positions(task, task.recipe(rate, deal=deal)) for deal in DEALS]
    return {
        "data": task.name,
        "rate": rate,
        "seeds": len(rows),
        "together": mean(float(row["together"]) for row in rows),
        "scattered": mean(float(row["scattered"]) for row in rows),
        "gap": mean(gaps),
        "±": stdev(gaps) / len(gaps) ** 0.5,
        "positions together": lies_in[0],
        "positions scattered": lies_in[1],
    }


def section(rows: list[dict[str, object]]) -> None:
    """Write what was found into the page."""
    columns = {"data": "", "rate": "", "seeds": "", "together": ".2f", "scattered": ".2f"}
    columns |= {"gap": "+.2f", "±": ".2f"}
    columns |= {"positions together": ".0f", "positions scattered": ".0f"}
    write(
        "scattered",
        epochs=EPOCHS,
        blocks=BLOCKS,
        length=EPOCHS * BLOCKS,
        table=table(rows, columns),
        gap=max(abs(float(row["gap"])) for row in rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    folder, rows = Path(given.data), []
    for task in (digits(folder / "mnist"), baskets(folder / "online_retail")):
        rate = chosen_rate(task)
        rows.append(averaged(task, rate, rows_of(task, rate, given.seeds)))
    section(rows)


if __name__ == "__main__":
    main()
