"""Measure everything, and write docs/benchmarks.md: `python -m benchmarks --data FOLDER`."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import cost, memory, mnist

TEMPLATE = Path(__file__).with_name("benchmarks.md")
TARGET = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def processor() -> str:
    """The processor's name, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")


def table(rows: list[dict[str, object]], columns: dict[str, str]) -> str:
    """A Markdown table of some columns, each with its format."""
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += [
        "| " + " | ".join(format(row[name], form) for name, form in columns.items()) + " |"
        for row in rows
    ]
    return "\n".join(lines)


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
    text = TEMPLATE.read_text().format(
        date=datetime.now(UTC).date(),
        processor=processor(),
        cores=os.cpu_count(),
        threads=chosen.threads,
        torch=torch.__version__,
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
    TARGET.write_text(text)
    print(f"written to {TARGET}")


if __name__ == "__main__":
    main()
