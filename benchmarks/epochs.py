"""CIFAR-10 in a chain of epochs, shuffled as usual, and in one pass: what each is worth.

`python -m benchmarks.epochs --data FOLDER [--rows FILE]`, where the folder holds CIFAR-10's Parquet
files. Each training takes ten minutes of one core: what a file of rows holds is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from examples import cifar10
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from benchmarks import plain
from benchmarks.page import table, write
from obliviate.datasets import Images, shifted

IMAGES, TESTED = 20_000, 10_000
WAYS = ("epochs", "shuffled", "one pass")  # the last by one seed alone


def net() -> torch.nn.Module:
    """The example's net, in the memory format that a processor is fastest with."""
    return cifar10.net().to(memory_format=torch.channels_last)


def decoded(data: Images) -> TensorDataset:
    """Pictures that do not move, decoded once."""
    images, labels = zip(*data, strict=True)
    return TensorDataset(torch.stack(images), torch.tensor(labels))


class Moving(Dataset):
    """Decoded pictures, each moved as the example moves it when it is looked at."""

    def __init__(self, pictures: TensorDataset) -> None:
        self.images, labels = pictures.tensors
        self.labels = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, record: int) -> tuple[torch.Tensor, int]:
        return shifted(self.images[record]), self.labels[record]


def trained(way: str, seed: int, cifar: ob.Project) -> dict[str, object]:
    """Accuracy and the processor's seconds of one training."""
    recipe, length = replace(cifar.recipe, seed=seed), cifar.recipe.epochs
    if way == "one pass":
        recipe = replace(recipe, epochs=1, repeats=length)
    started, began = time.process_time(), time.perf_counter()
    if way == "shuffled":
        torch.manual_seed(seed)
        per_block = -(-len(cifar.data) // cifar.blocks // recipe.batch_size)
        model = plain.train_shuffled(recipe, cifar.data, steps=cifar.blocks * per_block)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run = ob.fit(recipe, cifar.data, Path(folder, "run"), blocks=cifar.blocks)
            model = run.model
            run.close()
    row = {
        "trained": way,
        "seed": seed,
        "seconds": time.process_time() - started,
        "wall": time.perf_counter() - began,
        "accuracy": plain.accuracy(model, cifar.test),
    }
    print(row, flush=True)
    return row


def section(rows: list[dict[str, object]], cifar: ob.Project) -> None:
    """Write what was found into the page."""
    rows = sorted(rows, key=lambda row: row["seed"])

    def of(way: str, what: str) -> list[float]:
        return [float(row[what]) for row in rows if row["trained"] == way]

    gaps = [
        a - b for a, b in zip(of("epochs", "accuracy"), of("shuffled", "accuracy"), strict=True)
    ]
    share = mean(of("epochs", "accuracy")) / 100
    write(
        "epochs",
        images=len(cifar.data),
        tested=len(cifar.test),
        epochs=cifar.recipe.epochs,
        blocks=cifar.blocks,
        table=table(rows, {"trained": "", "seed": "", "accuracy": ".2f", "seconds": ".0f"}),
        pairs=len(gaps),
        error=100 * (share * (1 - share) / len(cifar.test)) ** 0.5,
        chain=100 * share,
        shuffled=mean(of("shuffled", "accuracy")),
        gap=mean(gaps),
        gaps=", ".join(f"{gap:+.2f}" for gap in gaps),
        one_pass=mean(of("one pass", "accuracy")),
        ratio=sum(of("epochs", "seconds")) / sum(of("shuffled", "seconds")),
    )


def project(folder: str, images: int, tested: int, epochs: str, blocks: str) -> ob.Project:
    """The example's project, its pictures decoded once, optimizer state carried."""
    made = cifar10.project(data=folder, epochs=epochs, blocks=blocks)
    data, test = (
        decoded(cifar10.pictures(folder, split, most, is_moved=False))
        for split, most in (("train", images), ("test", tested))
    )
    recipe = replace(made.recipe, model=net, optimizer_state="carried")
    return replace(made, recipe=recipe, data=Moving(data), test=test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--tested", type=int, default=TESTED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=Path, help="a file of rows, one in a line; added to")
    parser.add_argument("--epochs", default=str(cifar10.EPOCHS))
    parser.add_argument("--blocks", default=str(cifar10.BLOCKS))
    given = parser.parse_args()
    cifar = project(given.data, given.images, given.tested, given.epochs, given.blocks)
    lines = given.rows.read_text().splitlines() if given.rows and given.rows.exists() else []
    rows = [json.loads(line) for line in lines]
    known = {(row["trained"], row["seed"]) for row in rows}
    for seed in range(given.seeds):
        for way in WAYS if seed == 0 else WAYS[:2]:
            if (way, seed) not in known:
                rows.append(trained(way, seed, cifar))
                if given.rows:
                    given.rows.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    section(rows, cifar)


if __name__ == "__main__":
    main()
