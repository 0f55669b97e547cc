"""JPEG files in Parquet beside the same images in memory, and decoded on the disk.

`python -m benchmarks.loading --data FOLDER`, where the folder holds CIFAR-10's Parquet files with
JPEGs: 10,000 of its images train the example's net.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from examples import cifar10
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from benchmarks.page import table, write
from obliviate.datasets import images

IMAGES, ROUNDS = 10_000, 3


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
        "in memory, moved": InMemory(pixels, labels),
        "Parquet": images(folder, transform=cifar10.scaled, **given),
        "Parquet, moved": images(folder, **moved),
        "decoded on disk, moved": images(folder, decoded=made / "decoded", **moved),
    }


def seconds(recipe: ob.Recipe, data: Dataset, blocks: int) -> float:
    """The processor's seconds for an epoch: other processes do not count."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        ob.fit(recipe, data, Path(folder, "run"), blocks=blocks).close()
        return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    cifar = cifar10.project(data=given.data, images="1", epochs="1")
    recipe = replace(cifar.recipe, epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        data = ways(Path(given.data), Path(folder), given.images)
        print(f"made ready in {time.perf_counter() - started:.0f} s", flush=True)
        took: dict[str, list[float]] = {way: [] for way in data}
        for _ in range(given.rounds):  # in turns, or a machine that gets busy would decide
            for way, some in data.items():
                took[way].append(seconds(recipe, some, cifar.blocks))
                print(way, took[way], flush=True)
    rows = []
    for way, values in took.items():
        beside = took["in memory, moved" if "moved" in way else "tensors"]
        shares = [fast / slow for fast, slow in zip(beside, values, strict=True)]
        rows.append({
            "images": way,
            "images a second": given.images / median(values),
            "speed, % of in memory": 100 * median(shares),
        })  # fmt: skip
    write(
        "loading",
        images=given.images,
        rounds=given.rounds,
        table=table(rows, {"images": "", "images a second": ".0f", "speed, % of in memory": ".1f"}),
        least=min(row["speed, % of in memory"] for row in rows),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
