"""CIFAR-10 in ordinary epochs of a hundred blocks: how many of them forgetting a picture takes.

`python -m benchmarks.pictures --data CIFAR`: the folder of CIFAR-10's Parquet files. It takes a few
minutes of one core.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from examples import cifar10
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks import plain
from benchmarks.epochs import decoded
from benchmarks.page import table, write
from benchmarks.sisa import case, drawn, picture_net
from obliviate.methods.registry import label_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obliviate.methods.method import Method

IMAGES, TESTED, EPOCHS, BLOCKS, ASKED = 20_000, 10_000, 3, 100, 5
METHODS: tuple[Method, ...] = (ob.DeepObliviate(back=1), ob.Calibrated(back=1), ob.Calibrated())


def project(folder: str, epochs: int) -> ob.Project:
    """A small net, and pictures that do not move; half of the test pictures are references."""
    data, test = (
        decoded(cifar10.pictures(folder, split, most, is_moved=False))
        for split, most in (("train", IMAGES), ("test", TESTED))
    )
    reference, tested = (
        TensorDataset(*(each[part] for each in test.tensors))
        for part in (slice(TESTED // 2), slice(TESTED // 2, None))
    )
    made = case("CIFAR-10", picture_net, data, tested, epochs).project
    return replace(made, reference=reference, blocks=BLOCKS)


def rows_of(setting: ob.Project, made: Path, fitting: float) -> Iterator[dict[str, Any]]:
    """What each method takes to forget some pictures, each from a copy of the run."""
    for method in METHODS:
        took, seconds, accuracies = [], [], []
        for record in drawn(ASKED, IMAGES):
            copy = shutil.copytree(made, made.with_name("copy"))
            given = {"reference": setting.reference}
            with ob.load(copy, setting.recipe, setting.data, **given) as run:
                started = time.process_time()
                took.append(run.forget(records=[record], method=method))
                seconds.append(time.process_time() - started)
                accuracies.append(plain.accuracy(run.model, setting.test))
            shutil.rmtree(copy)
        most = max(each.blocks_replayed for each in took)
        yield {
            "method": label_of(method),
            "blocks": ", ".join(str(each.blocks_replayed) for each in took),
            "times fewer, at least": took[0].blocks_total / most,
            "processor s": mean(seconds),
            "times less of the processor": fitting / mean(seconds),
            "accuracy": ", ".join(f"{each:.2f}" for each in accuracies),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--page", action="store_true", help="write the table into the page")
    given = parser.parse_args()
    setting = project(given.data, given.epochs)
    with tempfile.TemporaryDirectory() as place:
        made, started = Path(place, "run"), time.process_time()
        call = partial(ob.fit, setting.recipe, setting.data, made, blocks=BLOCKS)
        with call(reference=setting.reference) as run:
            fitting = time.process_time() - started
            accuracy = plain.accuracy(run.model, setting.test)
        print(accuracy, fitting, flush=True)
        rows = []
        for row in rows_of(setting, made, fitting):
            rows.append(row)
            print(row, flush=True)
    if given.page:
        forms = {"times fewer, at least": ".0f", "processor s": ".2f"}
        forms["times less of the processor"] = ".0f"
        write(
            "pictures",
            images=IMAGES,
            tested=len(setting.test),
            epochs=given.epochs,
            blocks=BLOCKS,
            asked=ASKED,
            accuracy=accuracy,
            fitting=fitting,
            table=table(rows, {name: forms.get(name, "") for name in rows[0]}),
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
