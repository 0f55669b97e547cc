"""Measure training and erasing, into docs/benchmarks.md: `python -m benchmarks --data FOLDER`."""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

import torch

from benchmarks import cost, memory, mnist
from benchmarks.page import table, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("OBLIVIATE_DATA", "data/mnist"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    folder = Path(chosen.data)

    facts, rows = mnist.run(folder)
    beside = cost.beside_the_loop(folder)
    one_epoch = cost.one_epoch_ratio(folder)
    peaks = memory.run()
    blocks = [row["blocks"] for row in rows]
    write(
        "training",
        accuracy=facts["accuracy"],
        fit=facts["fit seconds"],
        block_ms=1000 * facts["block seconds"],
        chain=facts["chain MB"],
        erasures=table(
            rows,
            {
                "request": "",
                "blocks": "",
                "speedup in blocks": ".0f",
                "seconds": ".2f",
                "speedup": ".0f",
                "overhead": ".2f",
                "accuracy": ".2f",
                "exact accuracy": ".2f",
                "exact seconds": ".1f",
            },
        ),
        most_blocks=max(blocks),
        median_blocks=statistics.median(blocks),
        least_speedup=min(row["speedup in blocks"] for row in rows),
        least_wall=min(row["speedup"] for row in rows),
        median_overhead=statistics.median(row["overhead"] for row in rows),
        most_overhead=max(row["overhead"] for row in rows),
        beside=table(
            beside,
            {
                "seed": "",
                "fit seconds": ".1f",
                "loop seconds": ".1f",
                "ratio": ".3f",
                "accuracy in blocks": ".2f",
                "accuracy shuffled": ".2f",
            },
        ),
        overhead=statistics.median(row["ratio"] for row in beside),
        erasing=statistics.median(row["erasing"] for row in beside),
        one_epoch=one_epoch,
        gap=statistics.mean(row["accuracy in blocks"] - row["accuracy shuffled"] for row in beside),
        memory=table(
            peaks,
            {
                "what": "",
                "blocks": "",
                "loop MB": "",
                "peak MB": "",
                "states above the loop": ".1f",
            },
        ),
    )


if __name__ == "__main__":
    main()
