"""docs/benchmarks.md: each measurement writes its own section and leaves the others alone."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

import torch

HERE = Path(__file__).parent
TARGET = HERE.parent / "docs" / "benchmarks.md"


def processor() -> str:
    """The processor's name, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")


def measured_on() -> str:
    """When and on what, for the head of a section."""
    return (
        f"Measured on {datetime.now(UTC).date()}: {processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}."
    )


def table(rows: list[dict[str, object]], columns: dict[str, str]) -> str:
    """A Markdown table of some columns, each with its format."""
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += [
        "| " + " | ".join(format(row[name], form) for name, form in columns.items()) + " |"
        for row in rows
    ]
    return "\n".join(lines)


def write(section: str, **figures: object) -> None:
    """Fill in a section's template and put it into the page, in the place of the one before."""
    text = (HERE / f"{section}.md").read_text().format(measured_on=measured_on(), **figures)
    marked = f"<!-- {section} -->\n{text.strip()}\n<!-- end of {section} -->\n"
    page = TARGET.read_text() if TARGET.exists() else "# Benchmarks\n"
    found = _found(section, page)
    page = page[: found.start()] + marked + page[found.end() :] if found else f"{page}\n{marked}"
    TARGET.write_text(page)
    print(f"section {section} written to {TARGET}")


def section_of(section: str) -> str:
    """What the page has of a section; nothing where it has none."""
    found = _found(section, TARGET.read_text() if TARGET.exists() else "")
    return found.group() if found else ""


def _found(section: str, page: str) -> re.Match[str] | None:
    place = rf"<!-- {section} -->\n.*?<!-- end of {section} -->\n"
    return re.search(place, page, flags=re.DOTALL)
