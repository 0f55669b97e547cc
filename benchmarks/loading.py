"""JPEG files in Parquet beside the same images in memory, and decoded on the disk.

`python -m benchmarks.loading --data FOLDER --mnist FOLDER`, where the first folder holds CIFAR-10's
Parquet files with JPEGs: 10,000 of its images are read as training reads them, 4,000 train the
example's net. The second holds MNIST's IDX files, all of which are read.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from examples import cifar10
from torch.utils.data import Dataset, Subset, TensorDataset

import obliviate as ob
from benchmarks.page import table, write
from obliviate.datasets import idx_folder, images
from obliviate.training.batches import feed_of

IMAGES, TRAINED, ROUNDS = 10_000, 4_000, 3
MEMORY, PARQUET = "in memory, moved", "Parquet, moved"


class InMemory(Dataset):
    """Images in memory, moved as the example moves them."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        self.pixels, self.labels = pixels, labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, record: int) -> tuple[torch.Tensor, int]:
        return cifar10.moved(self.pixels[record]), self.labels[record]


def ways(folder: Path, made: Path, count: int) -> dict[str, Dataset]:
    """The same images in each way of reading them."""
    given = {"most": count, "cache": made / "arrow"}
    plain = images(folder, decoded=made / "decoded", **given)
    pixels, labels = torch.stack([image for image, _ in plain]), torch.from_numpy(plain.labels)
    moved = given | {"transform": cifar10.moved}
    return {
        "tensors": TensorDataset(cifar10.scaled(pixels.clone()), labels),
        MEMORY: InMemory(pixels, labels),
        "Parquet": images(folder, transform=cifar10.scaled, **given),
        PARQUET: images(folder, **moved),
        "decoded on disk, moved": images(folder, decoded=made / "decoded", **moved),
    }


def loading(data: Dataset) -> float:
    """The processor's milliseconds an image to read all of them in batches, as training does."""
    feed, started = feed_of(data, 0), time.process_time()
    for some in np.array_split(np.random.default_rng(0).permutation(len(data)), len(data) // 32):
        feed.batch(some, 0)
    return 1000 * (time.process_time() - started) / len(data)


def training(recipe: ob.Recipe, data: Dataset, blocks: int) -> float:
    """The processor's milliseconds an image of an epoch, whatever other processes do."""
    with tempfile.TemporaryDirectory() as folder:
        run = ob.fit(
            recipe, data, Path(folder, "warm"), blocks=blocks, exclude=range(32, len(data))
        )
        run.close()
        started = time.process_time()
        ob.fit(recipe, data, Path(folder, "run"), blocks=blocks).close()
        return 1000 * (time.process_time() - started) / len(data)


def idx_seconds(folder: str) -> float:
    """The processor's seconds to read MNIST's files, all 70,000 digits."""
    started = time.process_time()
    for split in ("train", "test"):
        idx_folder(folder, split)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--mnist", required=True)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--trained", type=int, default=TRAINED)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    idx = median(idx_seconds(given.mnist) for _ in range(given.rounds))
    print("idx", idx, flush=True)
    cifar = cifar10.project(data=given.data, images="1", epochs="1")
    with tempfile.TemporaryDirectory() as folder:
        data = ways(Path(given.data), Path(folder), given.images)
        took: dict[str, list[float]] = {way: [] for way in data}
        for _ in range(given.rounds):  # in turns, or a machine that gets busy would decide
            for way, some in data.items():
                took[way].append(loading(some))
                print(way, took[way], flush=True)
        fits = {}
        for way in (MEMORY, PARQUET):
            part = Subset(data[way], range(given.trained))
            fits[way] = training(replace(cifar.recipe, epochs=1), part, cifar.blocks)
            print("fit", way, fits[way], flush=True)
    read = {way: median(values) for way, values in took.items()}
    rest = fits[MEMORY] - read[MEMORY]
    rows = []
    for way, cost in read.items():
        beside = read[MEMORY if "moved" in way else "tensors"]
        rows.append(
            {
                "images": way,
                "ms to read one": cost,
                "speed of training, %": 100 * (rest + beside) / (rest + cost),
            }
        )
    write(
        "loading",
        images=given.images,
        trained=given.trained,
        rounds=given.rounds,
        rest=rest,
        memory=fits[MEMORY],
        parquet=fits[PARQUET],
        idx=idx,
        table=table(rows, {"images": "", "ms to read one": ".3f", "speed of training, %": ".1f"}),
        least=min(row["speed of training, %"] for row in rows),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
