"""The commands of the laboratory, and what they answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from obliviate import lab as laboratory
from obliviate.cli.options import (
    Json,
    On,
    Options,
    ProjectPath,
    Records,
    Subjects,
    Workers,
    check_named,
)
from obliviate.cli.output import Answer
from obliviate.cli.project import options_of
from obliviate.cli.render import facts_of, listed
from obliviate.disk.paths import absolute
from obliviate.executors.executor import LOCAL
from obliviate.lab.lab import DEFAULT_METHODS, DEFAULT_SEEDS
from obliviate.recipe.project import ProjectFile
from obliviate.text import counted, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obliviate.lab import Finding, Lab

LabFolder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Where measurements and tables are kept.")
]

app = typer.Typer()


@app.command()
def lab(
    project: ProjectPath,
    folder: LabFolder,
    *,
    subject: Subjects = None,
    record: Records = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME[:OPTION=VALUE,...]",
            help="A method, such as deepobliviate:blocks=2; can be given several times.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="How many originals, and as many retrains.")
    ] = DEFAULT_SEEDS,
    workers: Workers = None,
    on: On = LOCAL,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the originals' runs for further methods.")
    ] = False,
    option: Options = None,
    _json: Json = False,
) -> Answer:
    """Measure against independent retrains whether methods forget."""
    check_named(subject, record)
    comparison = laboratory.lab(
        ProjectFile(file=absolute(project, "the project file"), options=options_of(option)),
        folder,
        records=record or (),
        subjects=subject or (),
        methods=method or DEFAULT_METHODS,
        seeds=seeds,
        workers=workers,
        on=on,
        keep=keep,
    )
    return of_lab(comparison, folder)


def of_lab(result: Lab, folder: Path) -> Answer:
    """The answer to `lab`."""
    facts = facts_of(result)
    probes = [name for name in result.findings[0].accuracies if name != "test"]
    table = Table("", "blocks", "shift", "bias", "KLoM", "AUC", "accuracy", *probes, "agree")
    for row in result.findings:
        table.add_row(*_measured(row, probes))
    nulls = (result.floor.shift, result.floor.klom, result.floor.auc)
    shift, klom, auc = (f"{null.mean:.2f}" for null in nulls)
    table.add_row("chance alone", "", shift, "", klom, auc)
    shift, klom, auc = (f"{null.low:.2f}-{null.high:.2f}" for null in nulls)
    table.add_row("nine times of ten", "", shift, "", klom, auc)
    records = counted(result.records, "record")
    blocks = f"block {listed(result.affected)} of {result.blocks}"
    lines = [
        f"{records} of {blocks}; {result.seeds} originals, {result.seeds} independent retrains",
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
