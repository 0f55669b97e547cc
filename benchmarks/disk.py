"""The disk of chains of epochs, beside what a forecast says of it: `python -m benchmarks.disk`."""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import nn

import obliviate as ob
from benchmarks.page import table, write
from obliviate.datasets import digits
from obliviate.forecast.year import basis_of, basis_of_run, with_given

EPOCHS, BLOCKS = 20, 25
OTHER_EPOCHS, OTHER_BLOCKS = 5, 50

OPTIMIZERS = {
    "SGD with momentum": (partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=5e-4), 1),
    "Adam": (partial(torch.optim.Adam, lr=0.001), 2),
}


def decaying(step: int, steps: int) -> float:
    """A learning rate that falls to nothing, as usual."""
    return 1 - step / steps


def mlp() -> nn.Module:
    """51,000 parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def conv() -> nn.Module:
    """19,000 parameters, and buffers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def measured(model, optimizer, folder: str, *, epochs: int, blocks: int, keep: int | None = None):
    """A run over the digits: what its chain takes on disk, and what is known from it."""
    recipe = ob.Recipe(
        model=model,
        optimizer=optimizer,
        loss=nn.functional.cross_entropy,
        schedule=decaying,
        batch_size=24,
        epochs=epochs,
        optimizer_state="carried",
    )
    with ob.fit(recipe, digits()[0], Path(folder) / "run", blocks=blocks, keep=keep) as run:
        return run.stock().size_bytes(), basis_of_run(run)


def row(model, name: str) -> dict[str, object]:
    """One net and optimizer: a run, the run that keeps all, and forecasts of the first."""
    (optimizer, moments), made = OPTIMIZERS[name], []
    for shape in (
        {"epochs": EPOCHS, "blocks": BLOCKS},
        {"epochs": EPOCHS, "blocks": BLOCKS, "keep": EPOCHS},
        {"epochs": OTHER_EPOCHS, "blocks": OTHER_BLOCKS},
    ):
        with tempfile.TemporaryDirectory() as folder:
            made.append(measured(model, optimizer, folder, **shape))
    (usual, _), (most, _), (_, other) = made
    made_net = model()
    tensors = chain(made_net.parameters(), made_net.buffers())
    state_bytes = sum(each.numel() * each.element_size() for each in tensors)
    blind = basis_of(60.0, state_bytes, epochs=EPOCHS, moments=moments).costs(BLOCKS)
    seen = with_given(other, epochs=EPOCHS).costs(BLOCKS)
    assert blind.disk_bytes is not None
    assert seen.disk_bytes is not None
    return {
        "net": model.__name__,
        "optimizer, carried": name,
        "MB": usual / 1e6,
        "forecast MB": blind.disk_bytes / 1e6,
        "off by %": 100 * (blind.disk_bytes / usual - 1),
        "from another run MB": seen.disk_bytes / 1e6,
        "off by % then": 100 * (seen.disk_bytes / usual - 1),
        "all kept MB": most / 1e6,
        "share": usual / most,
    }


def main() -> None:
    rows = []
    for model in (mlp, conv):
        for name in OPTIMIZERS:
            rows.append(row(model, name))
            print(rows[-1], flush=True)
    write(
        "disk",
        epochs=EPOCHS,
        blocks=BLOCKS,
        other_epochs=OTHER_EPOCHS,
        other_blocks=OTHER_BLOCKS,
        most=max(abs(each[off]) for each in rows for off in ("off by %", "off by % then")),
        share=max(each["share"] for each in rows),
        table=table(
            rows,
            {
                "net": "",
                "optimizer, carried": "",
                "MB": ".1f",
                "forecast MB": ".1f",
                "off by %": "+.1f",
                "from another run MB": ".1f",
                "off by % then": "+.1f",
                "all kept MB": ".1f",
                "share": ".3f",
            },
        ),
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
