"""People in a chain of epochs: how fast a writer of MNIST is forgotten, and what it costs.

`python -m benchmarks.people --data FOLDER --writers FILE`
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from examples.mnist import project
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks import plain
from benchmarks.page import table, write

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from obliviate.methods.method import Method

WRITERS = 20
REFERENCES = 5000  # of the test digits; the others are tested on
METHODS: dict[str, tuple[Method, int | None]] = {
    "deepobliviate, the last epoch": (ob.DeepObliviate(back=1), 1),
    "deepobliviate, all epochs": (ob.DeepObliviate(), None),
    "as published, two blocks, all epochs": (ob.DeepObliviate(blocks=2), None),
    "calibrated, the last epoch": (ob.Calibrated(back=1), 1),
    "calibrated, all epochs": (ob.Calibrated(), None),
}
"""Methods, and how many epochs they go back to."""


def chosen(subjects: list[str], seed: int = 0) -> list[str]:
    """Twenty writers, drawn by a seed before anything is trained."""
    return np.random.default_rng(seed).permutation(sorted(set(subjects)))[:WRITERS].tolist()


def forgotten(
    folder: Path,
    made: Path,
    mnist: ob.Project,
    writer: str,
    *,
    method: Method,
    reference: Dataset[Any],
    test: Dataset[Any],
) -> dict[str, float]:
    """What forgetting one writer from a copy of a run took."""
    copy = folder / "copy"
    shutil.copytree(made, copy)
    with ob.load(copy, mnist.recipe, mnist.data, reference=reference) as run:
        started = time.perf_counter()
        erasure = run.forget(subjects=[writer], method=method)
        seconds = time.perf_counter() - started
        accuracy = plain.accuracy(run.model, test)
    shutil.rmtree(copy)
    return {"blocks": erasure.blocks_replayed, "seconds": seconds, "accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--writers", required=True)
    parser.add_argument("--epochs", default="5")
    parser.add_argument("--blocks", default="100")
    given = parser.parse_args()
    mnist = project(given.data, given.writers, given.epochs, given.blocks)
    epochs, rows, facts = mnist.recipe.epochs, [], {}
    reference, test = (
        TensorDataset(*(each[part] for each in mnist.test.tensors))
        for part in (slice(REFERENCES), slice(REFERENCES, None))
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for deal in ("subject", "record"):
            recipe = replace(mnist.recipe, deal=deal)
            started = time.perf_counter()
            run = ob.fit(
                recipe,
                mnist.data,
                folder / deal,
                blocks=mnist.blocks,
                subjects=mnist.subjects,
                keep=epochs,
                reference=reference,
            )
            facts[deal] = {
                "seconds": time.perf_counter() - started,
                "accuracy": plain.accuracy(run.model, test),
                "affected": median(
                    len(run.preview(subjects=[each]).affected) for each in chosen(mnist.subjects)
                ),
                "length": run.facts.blocks,
            }
            run.close()
        for name, (method, back) in METHODS.items():
            found = [
                forgotten(
                    folder,
                    folder / "subject",
                    mnist,
                    writer,
                    method=method,
                    reference=reference,
                    test=test,
                )
                for writer in chosen(mnist.subjects)
            ]
            blocks, seconds = (
                median(each[what] for each in found) for what in ("blocks", "seconds")
            )
            rows.append(
                {
                    "method and reach": name,
                    "blocks replayed": blocks,
                    "per epoch": blocks / (back or epochs),
                    "speedup in blocks": facts["subject"]["length"] / blocks,
                    "seconds": seconds,
                    "speedup": facts["subject"]["seconds"] / seconds,
                    "accuracy": float(np.mean([each["accuracy"] for each in found])),
                }
            )
    together, scattered = facts["subject"], facts["record"]
    write(
        "people",
        writers=WRITERS,
        epochs=epochs,
        blocks=mnist.blocks,
        length=together["length"],
        fit=together["seconds"],
        accuracy=together["accuracy"],
        scattered_accuracy=scattered["accuracy"],
        affected=together["affected"],
        scattered=scattered["affected"],
        table=table(
            rows,
            {
                "method and reach": "",
                "blocks replayed": ".0f",
                "per epoch": ".1f",
                "speedup in blocks": ".0f",
                "seconds": ".2f",
                "speedup": ".0f",
                "accuracy": ".2f",
            },
        ),
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
