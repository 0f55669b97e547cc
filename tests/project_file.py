"""A project file as a user would write one, small enough to train in a blink."""

from pathlib import Path

PROJECT = """
from functools import partial
from pathlib import Path

import torch
from torch import nn

import obliviate as ob

print("the project is being loaded")
STOP = Path(__file__).with_name("stop")


class Records(torch.utils.data.Dataset):
    def __init__(self, records):
        generator = torch.Generator().manual_seed(7)
        self.inputs = torch.randn(records, 4, generator=generator)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, record):
        if STOP.exists() and record in map(int, STOP.read_text().split()):
            raise KeyboardInterrupt
        return self.inputs[record], record % 3


def loss(outputs, targets):
    return 1.0 * nn.functional.cross_entropy(outputs, targets)


def project(blocks="8", repeats="1"):
    recipe = ob.Recipe(
        model=partial(nn.Linear, 4, 3),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        loss=loss,
        batch_size=4,
        repeats=int(repeats),
    )
    subjects = [f"user-{record // 2}" for record in range(48)]
    return ob.Project(
        recipe=recipe, data=Records(48), test=Records(12), subjects=subjects, blocks=int(blocks)
    )
"""


def write_project(folder: Path) -> Path:
    """Write the project file and return its path. A file `stop` beside it that holds record ids
    makes reading these an interrupt, as Ctrl-C would."""
    path = folder / "project.py"
    path.write_text(PROJECT, encoding="utf-8")
    return path
