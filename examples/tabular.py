"""A small network on a table of patients: breast cancer, told from measurements of cells.

From the command line, where this file is a project:

    obliviate fit examples/tabular.py runs/tabular
    obliviate forget runs/tabular --subject patient-007

From Python, where it is a script:

    python examples/tabular.py --run runs/tabular

The data come with scikit-learn. Their 30 columns differ in scale by a factor of thousands, so they
must be standardised, and that is where a table easily goes on remembering: means computed once over
all patients hold a trace of each of them, and no erasing from the model takes it out. Here the
first layer of the model standardises. Its means are part of the model's state and change block by
block, so they are forgotten with everything else.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob

BLOCKS = 20
COLUMNS = 30


def net() -> nn.Module:
    """Standardise, then two hidden layers."""
    return nn.Sequential(
        nn.BatchNorm1d(COLUMNS, affine=False),
        nn.Linear(COLUMNS, 32),
        nn.ReLU(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 2),
    )


RECIPE = ob.Recipe(
    model=net,
    optimizer=partial(torch.optim.Adam, lr=0.003, weight_decay=1e-4),
    # a new Adam in each block: its moments are a trace of the records they were computed from
    optimizer_state="fresh",
    loss=nn.functional.cross_entropy,
    batch_size=12,
    repeats=6,
)


def patients() -> tuple[TensorDataset, TensorDataset, list[str]]:
    """Patients to learn from, patients to test on, and the names of the former."""
    table = load_breast_cancer()
    inputs = torch.from_numpy(table.data.astype(np.float32))
    targets = torch.from_numpy(table.target)
    is_tested = torch.arange(len(targets)) % 5 == 0
    learned = TensorDataset(inputs[~is_tested], targets[~is_tested])
    tested = TensorDataset(inputs[is_tested], targets[is_tested])
    # the published table has no names: these stand for whatever key a clinic has
    return learned, tested, [f"patient-{number:03}" for number in range(len(learned))]


def project(blocks: str = str(BLOCKS)) -> ob.Project:
    """What the command line trains.

    Args:
        blocks: How many blocks the records are cut into.
    """
    learned, tested, names = patients()
    return ob.Project(recipe=RECIPE, data=learned, test=tested, subjects=names, blocks=int(blocks))


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """The share of records that a model tells right."""
    inputs, targets = data.tensors
    with torch.no_grad():
        return float((model(inputs).argmax(dim=1) == targets).float().mean())


def main() -> None:
    """Train, look at what a request would cost, forget one patient, then settle exactly."""
    parser = argparse.ArgumentParser(description="Forget a patient.")
    parser.add_argument("--run", default="runs/tabular", help="folder of the run")
    parser.add_argument("--blocks", default=str(BLOCKS), help="how many blocks to train in")
    chosen = parser.parse_args()
    clinic = project(blocks=chosen.blocks)

    run = ob.fit(
        clinic.recipe, clinic.data, chosen.run, blocks=clinic.blocks, subjects=clinic.subjects
    )
    print(f"trained: {accuracy(run.model, clinic.test):.1%} of the test patients are told right")

    plan = run.preview(subjects=["patient-007"])
    print(
        f"patient-007 has {len(plan.records)} record(s); replay would start at block {plan.start}"
    )

    erasure = run.forget(subjects=["patient-007"])
    print(f"forgot it: {erasure.blocks_replayed} of {erasure.blocks_total} blocks were replayed")
    print(f"  {erasure.stop_reason}")
    print(f"  now {erasure.guarantee}, {accuracy(erasure.model, clinic.test):.1%} right")

    settled = run.settle()
    print(f"settled: {settled.guarantee}, {accuracy(settled.model, clinic.test):.1%} right")


if __name__ == "__main__":
    main()
