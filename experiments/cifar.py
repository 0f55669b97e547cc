"""A convolutional net with BatchNorm on CIFAR-10, in ordinary epochs.

obliviate lab experiments/cifar.py FOLDER -o data=CIFAR --subject erased

DATA is a folder of Parquet files as the Hugging Face hub has them, whose names begin with train: a
column `img` with the bytes of a picture file, and a column `label`.
"""

from __future__ import annotations

from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from pyarrow import parquet
from torch import nn
from torch.utils.data import TensorDataset

from erased import SEED
from people import cohort, terms_of

if TYPE_CHECKING:
    import obliviate as ob


def layers(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """A convolution, normalised."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def net() -> nn.Module:
    """Three convolutions: 35,000 parameters."""
    return nn.Sequential(
        *layers(3, 16, 2),
        *layers(16, 32, 2),
        *layers(32, 64, 2),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 10),
    )


class Pictures:
    """The pictures of the files, decoded when they are asked for."""

    def __init__(self, folder: str) -> None:
        self.files: list[bytes] = []
        self.labels: list[int] = []
        for path in sorted(Path(folder).rglob("train*.parquet")):
            with parquet.ParquetFile(path) as table:
                columns = table.read(["img.bytes", "label"], use_threads=False).to_pydict()
            self.files += [picture["bytes"] for picture in columns["img"]]
            self.labels += columns["label"]
        if not self.files:
            raise ValueError(f"there is no file train*.parquet in {folder}; give data=FOLDER")

    def __call__(self, rows: np.ndarray) -> TensorDataset:
        """Some of them."""
        pixels = []
        for row in rows:
            with Image.open(BytesIO(self.files[row])) as picture:
                pixels.append(np.array(picture.convert("RGB")))
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
        labels = torch.tensor([self.labels[row] for row in rows])
        return TensorDataset(images.float().div_(127.5).sub_(1), labels)


def project(  # noqa: PLR0917 - options come by name
    data: str = "data/cifar10",
    kind: str = "mislabelled",
    place: str = "middle",
    records: str = "4000",
    epochs: str = "10",
    blocks: str = "10",
    keep: str = "",
    seed: str = str(SEED),
) -> ob.Project:
    """What the laboratory trains.

    Args:
        data: The folder of the Parquet files.
        kind: What is to be forgotten: "mislabelled", "subject" or "backdoor".
        place: In which block of the last epoch: "early", "middle" or "late".
        records: How many images are trained on.
        epochs: How often.
        blocks: How many blocks an epoch is cut into.
        keep: Of how many of the last epochs every state is kept; of all if empty.
        seed: Chooses images, people, blocks and models.
    """
    pictures = Pictures(data)
    terms = terms_of(kind, place, records, epochs, blocks, seed, keep=keep)
    made = cohort(pictures, terms.alike(len(pictures.files)), terms)
    return made.project(
        model=net,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4),
        loss=nn.functional.cross_entropy,
    )
