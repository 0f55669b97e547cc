"""The commands that measure or simulate, and leave runs alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from obliviate.chain.spacing import UPDATE_RATIO
from obliviate.cli import render
from obliviate.cli.laboratory import of_lab
from obliviate.cli.options import (
    Json,
    Moved,
    Options,
    ProjectPath,
    Records,
    Subjects,
    check_named,
)
from obliviate.cli.output import DONE, FAILED, Answer
from obliviate.cli.project import (
    ProjectFile,
    load_project,
    open_run,
    options_of,
)
from obliviate.cli.terminal import printing
from obliviate.events import watch
from obliviate.forecast.simulation import DAY, HOUR, Limits, Load
from obliviate.forecast.year import (
    BLOCKS,
    basis_of,
    check_source,
    measured,
    numbers_of,
    planned,
    rate_of,
    whole_numbers_of,
    with_given,
)
from obliviate.lab import labbing
from obliviate.lab.lab import DEFAULT_METHODS, DEFAULT_SEEDS

app = typer.Typer()


@app.command()
def bench(
    project: ProjectPath,
    *,
    blocks: Annotated[int | None, typer.Option(help="Instead of the project's own.")] = None,
    option: Options = None,
    _json: Json = False,
) -> Answer:
    """Measure on a project of your own what forgetting one record costs."""
    from obliviate.lab.bench import benching  # noqa: PLC0415

    return render.of_bench(watch(benching(load_project(project, options_of(option)), blocks)))


@app.command()
def plan(
    *,
    rate: Annotated[
        str, typer.Option(metavar="N/UNIT", help="Requests to expect, as in 20/day; or hour, ...")
    ],
    days: Annotated[float, typer.Option(help="For how long they arrive.")] = 365,
    blocks: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Numbers of blocks to compare.")
    ] = None,
    settle: Annotated[
        str, typer.Option(metavar="DAYS,DAYS,...", help="Days between settlings to compare.")
    ] = "1,7,28",
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="A run to take times and sizes from.")
    ] = None,
    training_seconds: Annotated[
        float | None, typer.Option(help="Without a run: how long training on everything takes.")
    ] = None,
    state_bytes: Annotated[
        float | None, typer.Option(help="Without a run: the size of a state.")
    ] = None,
    records_per_request: Annotated[int, typer.Option(help="Records that a request names.")] = 1,
    lag: Annotated[
        float | None, typer.Option(help="Blocks that a fast erasure replays, if known better.")
    ] = None,
    block_overhead: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Beside the training of each replayed block."),
    ] = None,
    pass_overhead: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="For each pass, fast or exact.")
    ] = None,
    update_ratio: Annotated[
        float, typer.Option(help="Without a run: an update's size on disk, in states.")
    ] = UPDATE_RATIO,
    due_days: Annotated[float, typer.Option(help="Requests are due after so many days.")] = 30,
    exact_share: Annotated[
        float, typer.Option(help="Limit: the share of requests that is exact when due.")
    ] = 1.0,
    forget_hours: Annotated[
        float, typer.Option(help="Limit: 99 % of the requests are forgotten within so many hours.")
    ] = 24,
    disk_bytes: Annotated[float | None, typer.Option(help="Limit: the size of the chain.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random requests.")] = 0,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Simulate a year of requests, and recommend a number of blocks and how often to settle."""
    load = Load(per_day=rate_of(rate), days=days, records=records_per_request, seed=seed)
    limits = Limits(
        forget_seconds=forget_hours * HOUR,
        due_seconds=due_days * DAY,
        exact_in_time=exact_share,
        disk_bytes=disk_bytes,
    )
    rhythms = numbers_of(settle, "--settle")
    chosen = whole_numbers_of(blocks, "--blocks") if blocks is not None else None
    check_source(run, training_seconds, state_bytes)
    if run is not None:
        opened = open_run(run, project)[1]
        basis, own = measured(opened), opened.facts.blocks
        chosen = chosen or [own]
    else:
        basis, own = basis_of(training_seconds or 0.0, state_bytes, update_ratio), None
    basis = with_given(basis, lag=lag, overhead_seconds=block_overhead, pass_seconds=pass_overhead)
    return render.of_year(planned(load, basis, chosen or BLOCKS, rhythms, limits, measured_at=own))


@app.command()
def lab(
    project: ProjectPath,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where measurements and tables are kept.")
    ],
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
    workers: Annotated[int, typer.Option(help="How many processes.")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the originals' runs for further methods.")
    ] = False,
    option: Options = None,
    _json: Json = False,
) -> Answer:
    """Measure against independent retrains whether methods forget."""
    check_named(subject, record)
    events = labbing(
        ProjectFile(file=project, options=options_of(option)),
        folder,
        records=record or (),
        subjects=subject or (),
        methods=method or DEFAULT_METHODS,
        seeds=seeds,
        workers=workers,
        keep=keep,
    )
    return of_lab(watch(events), folder)


@app.command()
def demo(
    *,
    folder: Annotated[Path, typer.Option(help="Where to leave what comes of it.")] = Path("demo"),
    json: Json = False,
) -> Answer:
    """Train on real images, forget two people, settle, and prove it; takes half a minute."""
    from obliviate.cli.demo import demonstrate  # noqa: PLC0415 - scikit-learn takes a second

    console = printing()
    console.quiet = json
    story = demonstrate(folder, console)
    return Answer(facts=vars(story), code=DONE if story.is_equal else FAILED)
