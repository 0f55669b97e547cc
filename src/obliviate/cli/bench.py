"""The command that compares methods of unlearning, and what it answers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from obliviate.cli.options import Json, On, Options, Workers
from obliviate.cli.output import Answer
from obliviate.cli.project import options_of
from obliviate.disk.paths import absolute
from obliviate.errors import InvalidOption
from obliviate.executors.executor import LOCAL
from obliviate.lab import bench as benches
from obliviate.lab.bench.session import DEFAULT_METHODS, DEFAULT_REQUESTS, DEFAULT_SEEDS
from obliviate.lab.bench.table import (
    as_csv,
    columns,
    heading_of,
    legend,
    name_of,
    notes_of,
    sections,
)
from obliviate.recipe.project import ProjectFile
from obliviate.text import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from obliviate.lab.bench import Comparison
    from obliviate.lab.bench.table import Column
    from obliviate.recipe.recipe import Project

DEFAULT_FOLDER = "bench"
_USUAL_REQUESTS = ",".join(map(str, DEFAULT_REQUESTS))
_WIDEST_NAME = 22

Named = Annotated[
    str,
    typer.Argument(
        metavar="PROJECT|PRESET",
        help="A Python file that defines `project`, or the name of a preset, such as digits.",
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[:OPTION=VALUE,...],...",
        help="Methods and baselines; all, chain or baselines for all of a kind.",
    ),
]
Requests = Annotated[
    str, typer.Option(metavar="N,N,...", help="After how many requests to measure.")
]
Size = Annotated[
    int | None,
    typer.Option(help="How many records each request names; those of a person if not given."),
]
NoBackdoor = Annotated[bool, typer.Option("--no-backdoor", help="Plant none: half the training.")]
Folder = Annotated[
    Path | None,
    typer.Option(help="Where all of it is kept; bench/ and the project's name if not given."),
]
Data = Annotated[str | None, typer.Option(metavar="FOLDER", help="Where a preset finds its data.")]

app = typer.Typer()


@app.command()
def bench(
    project: Named,
    *,
    methods: Methods = None,
    requests: Requests = _USUAL_REQUESTS,
    size: Size = None,
    seeds: Annotated[int, typer.Option(help="How often everything is done.")] = DEFAULT_SEEDS,
    no_backdoor: NoBackdoor = False,
    folder: Folder = None,
    data: Data = None,
    workers: Workers = None,
    on: On = LOCAL,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Answer with the table as CSV.")] = False,
    option: Options = None,
    _json: Json = False,
) -> Answer:
    """Compare methods of unlearning on a project: what they cost, and what they leave."""
    source, name = _source(project, data, options_of(option))
    place = folder or Path(DEFAULT_FOLDER) / name
    comparison = benches.bench(
        source,
        place,
        methods=methods or DEFAULT_METHODS,
        requests=_counts(requests),
        size=size,
        seeds=seeds,
        backdoor=not no_backdoor,
        workers=workers,
        on=on,
    )
    return of_bench(comparison, place, is_wide=wide, is_csv=csv)


def _source(
    project: str, data: str | None, options: dict[str, str]
) -> tuple[Callable[[], Project], str]:
    """What makes the project, and what its folder is called."""
    file = Path(project)
    if file.suffix or file.exists() or len(file.parts) > 1:
        if data is not None:
            raise InvalidOption(
                f"--data {data} is for presets; {project} is a project file",
                hint="give it to the project's function: --option data=FOLDER, if it takes that",
            )
        path = absolute(file, "the project file")
        return ProjectFile(file=path, options=options), file.stem
    from obliviate.lab.presets import preset  # noqa: PLC0415 - a second

    return partial(preset, project, data=data, **options), project


def _counts(text: str) -> list[int]:
    found: list[int] = []
    for each in text.split(","):
        try:
            found.append(int(each))
        except ValueError:
            raise InvalidOption(
                f"--requests {text!r} names {each!r}, no number", hint="give it as in 1,10,100"
            ) from None
    return found


def of_bench(result: Comparison, folder: Path, *, is_wide: bool, is_csv: bool) -> Answer:
    """The answer to `bench`."""
    facts: dict[str, Any] = plain(result) | {"folder": folder}
    if is_csv:
        return Answer(facts=facts, shown=[as_csv(result).rstrip("\n")])
    shown: list[Any] = [heading_of(result), _table(result, columns(is_wide=False))]
    if is_wide:
        shown.append(_table(result, columns(is_wide=True)))
    shown += [*notes_of(result), legend(is_wide=is_wide)]
    shown.append(
        f"cells, bench.json, bench.csv, bench.html, accuracy.png and cost.png are in {folder}"
    )
    return Answer(facts=facts, shown=shown)


def _table(result: Comparison, shown: Sequence[Column]) -> Table:
    """A table that fits a hundred characters."""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("", overflow="fold", max_width=_WIDEST_NAME)
    for each in shown:
        table.add_column(each.name, justify="right", no_wrap=True)
    for heading, rows in sections(result):
        table.add_section()
        table.add_row(heading)
        for row in rows:
            table.add_row(name_of(row), *(each.text(row) for each in shown))
    return table
