"""What `lab` answers, as facts for machines and as a table for people."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from rich.table import Table

from obliviate.cli.output import Answer
from obliviate.cli.render import listed
from obliviate.text import counted, percent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from obliviate.lab import Finding, Lab


def of_lab(found: Lab, folder: Path) -> Answer:
    """The answer to `lab`."""
    facts = {each.name: getattr(found, each.name) for each in fields(found)}
    probes = [name for name in found.findings[0].accuracies if name != "test"]
    table = Table("", "blocks", "shift", "bias", "KLoM", "AUC", "accuracy", *probes, "agree")
    for row in found.findings:
        table.add_row(*_measured(row, probes))
    nulls = (found.floor.shift, found.floor.klom, found.floor.auc)
    shift, klom, auc = (f"{null.mean:.2f}" for null in nulls)
    table.add_row("chance alone", "", shift, "", klom, auc)
    shift, klom, auc = (f"{null.low:.2f}-{null.high:.2f}" for null in nulls)
    table.add_row("nine times of ten", "", shift, "", klom, auc)
    held = f"{counted(found.records, 'record')} of block {listed(found.affected)} of {found.blocks}"
    lines = [
        f"{held}; {found.seeds} originals, {found.seeds} independent retrains",
        "chance alone: retrained models against retrained models, in random halves",
        f"cells, lab.json, lab.csv, gap.png and shift.png are in {folder}",
    ]
    return Answer(facts=facts | {"folder": folder}, shown=[lines[0], table, *lines[1:]])


def _measured(row: Finding, probes: Sequence[str]) -> list[str]:
    return [
        row.method,
        f"{row.blocks_replayed:g}",
        f"{row.shift:.2f}",
        f"{row.bias:+.2f} ± {row.bias_error:.2f}",
        f"{row.klom:.2f}",
        f"{row.auc:.2f}",
        *(percent(row.accuracies.get(name)) for name in ("test", *probes)),
        f"{100 * row.agreeing:.0f} %",
    ]
