"""SISA beside one chain: accuracy at the same speedup, and predictions; for a stream: `stream.py`.

`python -m benchmarks.sisa --data FASHION --cifar CIFAR [--rows FILE]`: the folders of
Fashion-MNIST's IDX files and of CIFAR-10's Parquet files. It takes ten minutes of one core; what a
file of rows holds is not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np
import torch
from examples import cifar10, mnist
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks import plain
from benchmarks.epochs import decoded
from benchmarks.page import table, write
from obliviate.datasets import idx_folder
from obliviate.events import finish
from obliviate.lab.baselines.registry import label_of
from obliviate.lab.baselines.sisa import Sisa

if TYPE_CHECKING:
    from collections.abc import Callable

    from obliviate.lab.baselines.ensemble import Ensemble

IMAGES, TESTED, BLOCKS, SINGLE = 20_000, 10_000, 30, 5
FAST = ob.DeepObliviate(back=1)
LONGER = 3
"""How many times the epochs one ensemble gets, to see whether it is training that it lacks."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A dataset, and how it is learned.

    Attributes:
        name: For the table.
        project: The project.
        is_quick: Whether there is time for more than one ensemble.
    """

    name: str
    project: ob.Project
    is_quick: bool

    @property
    def ensembles(self) -> list[Sisa]:
        """What is compared with one model."""
        longer = LONGER * self.project.recipe.epochs
        usual = Sisa(shards=20, slices=4)
        if not self.is_quick:
            return [usual]
        return [usual, replace(usual, shards=50), replace(usual, epochs=longer)]


def small_net() -> nn.Module:
    """A hidden layer: 51,000 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def picture_net() -> nn.Module:
    """Three convolutions: 35,000 parameters."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 2), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 10))
    return net.to(memory_format=torch.channels_last)


def case(
    name: str,
    net: object,
    data: TensorDataset,
    test: TensorDataset,
    epochs: int,
    *,
    is_quick: bool = True,
) -> Case:
    """A dataset that is learned as usual: momentum, half a cosine."""
    recipe = ob.Recipe(
        model=net,
        optimizer=partial(torch.optim.SGD, lr=0.03, momentum=0.9),
        loss=nn.functional.cross_entropy,
        schedule=mnist.cosine,
        batch_size=64,
        epochs=epochs,
    )
    project = ob.Project(recipe=recipe, data=data, test=test, blocks=BLOCKS)
    return Case(name=name, project=project, is_quick=is_quick)


def first(data: TensorDataset, most: int) -> TensorDataset:
    """The first records."""
    return TensorDataset(*(each[:most] for each in data.tensors))


def cases(fashion: str, cifar: str) -> list[Case]:
    """Fashion-MNIST and CIFAR-10."""
    images = [mnist.standardised(idx_folder(fashion, split)) for split in ("train", "test")]
    pictures = [
        decoded(cifar10.pictures(cifar, split, most, is_moved=False))
        for split, most in (("train", IMAGES), ("test", TESTED))
    ]
    return [
        case("Fashion-MNIST", small_net, first(images[0], IMAGES), first(images[1], TESTED), 10),
        case("CIFAR-10", picture_net, *pictures, 8, is_quick=False),
    ]


def drawn(count: int, of: int) -> list[int]:
    """Records that ask, drawn beforehand."""
    return np.random.default_rng(0).permutation(of)[:count].tolist()


def seconds_to_answer(model: object, data: TensorDataset) -> float:
    """How long predictions take; the best of three."""
    found = []
    for _ in range(3):
        started = time.perf_counter()
        plain.accuracy(model, data)
        found.append(time.perf_counter() - started)
    return min(found)


def trained(project: ob.Project, place: Path) -> ob.Run:
    """Our chain."""
    return ob.fit(project.recipe, project.data, place, blocks=project.blocks)


def prepared(sisa: Sisa, project: ob.Project, place: Path) -> Ensemble:
    """Its ensemble; goes on with what is there."""
    place.mkdir(exist_ok=True)
    return finish(sisa.prepare(project, place))


def ours(each: Case, made: Path) -> list[dict[str, object]]:
    """One model: what it is worth, and what forgetting one record takes."""
    project, shares, accuracies = each.project, [], []
    with trained(project, made) as run:
        before = plain.accuracy(run.model, project.test)
        answer = seconds_to_answer(run.model, project.test)
    for record in drawn(SINGLE, IMAGES):
        copy = shutil.copytree(made, made.with_name("single"))
        with ob.load(copy, project.recipe, project.data) as run:
            erasure = run.forget(records=[record], method=FAST)
            shares.append(erasure.blocks_replayed / erasure.blocks_total)
            accuracies.append(plain.accuracy(run.model, project.test))
        shutil.rmtree(copy)
    row = {
        "data": each.name,
        "way": f"one model, {label_of(FAST)}",
        "epochs": project.recipe.epochs,
        "speedup": 1 / mean(shares),
        "accuracy": before,
        "afterwards": mean(accuracies),
        "answer": answer,
    }
    return [row]


def theirs(each: Case, sisa: Sisa, place: Path) -> list[dict[str, object]]:
    """An ensemble: what it is worth, and what one request is expected to take."""
    project, records = each.project, drawn(SINGLE, IMAGES)
    ensemble = prepared(sisa, project, place)
    before = plain.accuracy(ensemble.predict, project.test)
    answer = seconds_to_answer(ensemble.predict, project.test)
    finish(ensemble.forget(np.array(records)))
    row = {
        "data": each.name,
        "way": label_of(sisa),
        "epochs": sisa.epochs or project.recipe.epochs,
        "speedup": 1 / sisa.expected_share,
        "accuracy": before,
        "afterwards": plain.accuracy(ensemble.predict, project.test),
        "answer": answer,
    }
    ensemble.close()
    return [row]


def section(rows: list[dict[str, object]]) -> None:
    """Write what models are worth into the page."""
    lead = {}
    for name in dict.fromkeys(row["data"] for row in rows):
        one, *others = [row for row in rows if row["data"] == name]
        lead[name] = one["afterwards"] - max(row["afterwards"] for row in others)
    one, *others = [row for row in rows if row["data"] == rows[0]["data"]]
    write(
        "sisa",
        images=IMAGES,
        tested=TESTED,
        blocks=BLOCKS,
        single=SINGLE,
        fast=label_of(FAST),
        lead=", ".join(f"{points:.1f} on {name}" for name, points in lead.items()),
        ratios=", ".join(f"{row['answer'] / one['answer']:.0f}" for row in others),
        table=table(
            rows,
            {
                "data": "",
                "way": "",
                "epochs": "",
                "speedup": ".0f",
                "accuracy": ".2f",
                "afterwards": ".2f",
                "answer": ".2f",
            },
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Known:
    """What was measured before, in a file with a line for each measurement.

    Attributes:
        file: None where nothing is kept.
    """

    file: Path | None

    def of(self, name: str, measure: Callable[[Path], list[dict[str, object]]]) -> list:
        """The rows of a measurement, which is made where it is missing."""
        lines = self.file.read_text().splitlines() if self.file and self.file.exists() else []
        known = {name: rows for line in lines for name, rows in json.loads(line).items()}
        if name in known:
            return known[name]
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(Path(folder, "run"))
        print(*rows, sep="\n", flush=True)
        if self.file:
            with self.file.open("a") as file:
                file.write(json.dumps({name: rows}) + "\n")
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--cifar", required=True)
    parser.add_argument("--rows", type=Path, help="a file of rows; added to")
    given = parser.parse_args()
    known, rows = Known(file=given.rows), []
    found = cases(given.data, given.cifar)
    for each in found:
        rows += known.of(each.name, partial(ours, each))
        for sisa in each.ensembles:
            rows += known.of(f"{each.name}, {label_of(sisa)}", partial(theirs, each, sisa))
    section(rows)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
