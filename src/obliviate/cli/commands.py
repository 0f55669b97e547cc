"""The commands."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from obliviate.audit import accuracy, auditing, labbing
from obliviate.audit.lab import DEFAULT_METHODS, DEFAULT_SEEDS
from obliviate.budget import UPDATE_RATIO
from obliviate.cli import shown
from obliviate.cli.answer import DONE, FAILED, Answer, Commands
from obliviate.cli.laboratory import of_lab
from obliviate.cli.planning import (
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
from obliviate.cli.project import (
    ProjectFile,
    addition_of,
    load_project,
    open_run,
    options_of,
    remembered,
)
from obliviate.errors import InvalidOption
from obliviate.fitting import fitting
from obliviate.making import local_folder
from obliviate.policy import Policy
from obliviate.progress import watch
from obliviate.residual import METHODS, method_of
from obliviate.run import DEFAULT_METHOD
from obliviate.simulation import DAY, HOUR, Limits, Load
from obliviate.terminal import printing, watch_replay
from obliviate.vault import KeyFile, KeyVariable
from obliviate.wording import percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obliviate.residual import Method
    from obliviate.results import Erasure
    from obliviate.vault import Seal

app = typer.Typer(
    name="obliviate",
    cls=Commands,
    help="Make trained PyTorch models forget people.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ProjectPath = Annotated[
    Path, typer.Argument(metavar="PROJECT", help="A Python file that defines `project`.")
]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The run's folder.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="NAME=VALUE", help="For the project's function."),
]
Moved = Annotated[
    Path | None,
    typer.Option("--project", metavar="FILE", help="The project file, if it has moved."),
]
Subjects = Annotated[
    list[str] | None,
    typer.Option("--subject", "-s", metavar="NAME", help="A person; can be given several times."),
]
Records = Annotated[
    list[int] | None,
    typer.Option("--record", "-r", metavar="ID", help="A record; can be given several times."),
]
MethodName = Annotated[
    str, typer.Option("--method", "-m", help=f"One of {', '.join(sorted(METHODS))}.")
]
Epsilon = Annotated[
    float | None,
    typer.Option(help="For deepobliviate: the slope to stop at; smaller replays more."),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        help="For calibrated: how uncertain the predicted residue may be, in units of the control "
        "noise; smaller replays more."
    ),
]
Functional = Annotated[
    bool | None,
    typer.Option(
        "--functional",
        help="For deepobliviate and exact: measure how the trace fades as a function, too.",
    ),
]
Blocks = Annotated[
    list[int] | None,
    typer.Option("--block", "-b", metavar="N", help="A block; can be given several times."),
]
Wait = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="How long to wait for another process that writes to the run; until it is done, if "
        "not given.",
    ),
]
Policed = Annotated[
    float,
    typer.Option(
        "--margin",
        metavar="DAYS",
        help="How long before the earliest deadline the exact replay is made.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON object.")]


@app.command()
def fit(
    project: ProjectPath,
    run: RunFolder,
    *,
    option: Options = None,
    vault: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where checkpoints are kept, as in s3://bucket/prefix."),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Encrypt them with the master key in FILE.")
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option(metavar="NAME", help="The same, from an environment variable.")
    ] = None,
    disk_budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What the chain may take, as in 2GB.")
    ] = None,
    _json: Json = False,
) -> Answer:
    """Train a run, or go on with one that was interrupted."""
    options = options_of(option)
    made = load_project(project, options)
    started = time.perf_counter()
    events = fitting(
        made.recipe,
        made.data,
        run,
        blocks=made.blocks,
        subjects=made.subjects,
        project=remembered(project, options),
        vault=vault,
        seal=_seal(key_file, key_variable) or made.seal,
        disk_budget=disk_budget,
    )
    trained = watch(events)
    seconds = time.perf_counter() - started
    facts: dict[str, Any] = {
        "run": run,
        "records": trained.facts.records,
        "blocks": trained.facts.blocks,
        "guarantee": trained.guarantee,
        "digest": trained.digest,
        "accuracy": accuracy(trained.model, made.test, made.recipe.device),
        "seconds": seconds,
    }
    rows = [*facts.items()][:-2]
    rows += [("test accuracy", percent(facts["accuracy"])), ("seconds", f"{seconds:.2f}")]
    return Answer(facts=facts, shown=[shown.facts_table(rows)])


@app.command()
def preview(
    run: RunFolder,
    *,
    subject: Subjects = None,
    record: Records = None,
    method: MethodName = DEFAULT_METHOD,
    epsilon: Epsilon = None,
    tolerance: Tolerance = None,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Say what a request would touch and cost; nothing changes."""
    chosen = _method(method, epsilon=epsilon, tolerance=tolerance)
    _check_named(subject, record)
    opened = open_run(run, project)[1]
    return shown.of_plan(opened.preview(record or (), subject or (), chosen))


@app.command()
def forget(
    run: RunFolder,
    *,
    subject: Subjects = None,
    record: Records = None,
    method: MethodName = DEFAULT_METHOD,
    epsilon: Epsilon = None,
    tolerance: Tolerance = None,
    functional: Functional = None,
    project: Moved = None,
    wait: Wait = None,
    _json: Json = False,
) -> Answer:
    """Erase people or records from a run, for good."""
    chosen = _method(method, epsilon=epsilon, tolerance=tolerance, functional=functional)
    _check_named(subject, record)
    opened = open_run(run, project, wait)[1]
    erasure = watch_replay(opened.forgetting(record or (), subject or (), chosen))
    return shown.of_erasure(erasure, _picture(run, erasure))


@app.command()
def settle(
    run: RunFolder, *, project: Moved = None, wait: Wait = None, _json: Json = False
) -> Answer:
    """Replace everything approximate in a run by exact replay."""
    erasure = watch_replay(open_run(run, project, wait)[1].settling())
    return shown.of_erasure(erasure, _picture(run, erasure))


@app.command()
def request(
    run: RunFolder,
    *,
    subject: Subjects = None,
    record: Records = None,
    due: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help="The deadline, such as 2030-12-20; a month if not given."
        ),
    ] = None,
    method: MethodName = DEFAULT_METHOD,
    epsilon: Epsilon = None,
    tolerance: Tolerance = None,
    functional: Functional = None,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Register a request, to be carried out later by `work`."""
    chosen = _method(method, epsilon=epsilon, tolerance=tolerance, functional=functional)
    _check_named(subject, record)
    opened = open_run(run, project)[1]
    return shown.of_request(opened.request(record, subject, due=due, method=chosen))


@app.command()
def refuse(
    run: RunFolder,
    number: Annotated[int, typer.Argument(metavar="REQUEST", help="The request's number.")],
    *,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Close a request that waits, without carrying it out."""
    return shown.of_request(open_run(run, project)[1].refuse(number, reason))


@app.command()
def queue(
    run: RunFolder,
    *,
    margin: Policed = Policy.margin_days,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """List the requests that are not closed, what they cost, and what `work` would do now."""
    return shown.of_queue(open_run(run, project)[1].queue(Policy(margin_days=margin)))


@app.command()
def work(
    run: RunFolder,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Erase all that waits, and settle, whatever is due.")
    ] = False,
    margin: Policed = Policy.margin_days,
    project: Moved = None,
    wait: Wait = None,
    _json: Json = False,
) -> Answer:
    """Carry out the requests that are due or pay off: to be called every day."""
    opened = open_run(run, project, wait)[1]
    events = opened.working(Policy(margin_days=margin), everything=everything)
    done = watch_replay(events)
    return shown.of_work(done, opened.ledger.requests.all())


@app.command()
def extend(
    run: RunFolder,
    *,
    blocks: Annotated[
        int | None, typer.Option(help="How many new blocks; of about the old size if not given.")
    ] = None,
    project: Moved = None,
    wait: Wait = None,
    _json: Json = False,
) -> Answer:
    """Train on the records that the project's data has now beyond those of the run."""
    made, opened = open_run(run, project, wait)
    watch(opened.extending(**addition_of(made, opened), blocks=blocks))
    return shown.of_status(opened.status())


@app.command()
def upgrade(run: RunFolder, *, _json: Json = False) -> Answer:
    """Bring the ledger of a run to the format of this version; a copy of the old one is kept."""
    from obliviate.ledger.upgrade import upgraded  # noqa: PLC0415 - Alembic is not needed else

    return shown.of_upgrade(upgraded(local_folder(run)))


@app.command(name="destroy-key")
def destroy_key(
    run: RunFolder,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="It cannot be undone.")] = False,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Destroy the key under which subjects are hashed: nobody can be found by name any more."""
    if not yes:
        raise InvalidOption(
            "destroying the subject key cannot be undone", hint="say --yes if that is what you want"
        )
    opened = open_run(run, project)[1]
    opened.ledger.destroy_subject_key()
    return Answer(facts={"destroyed": True}, shown=["the subject key is destroyed"])


@app.command()
def status(run: RunFolder, *, project: Moved = None, _json: Json = False) -> Answer:
    """Say how a run stands."""
    return shown.of_status(open_run(run, project)[1].status())


@app.command()
def verify(
    run: RunFolder,
    *,
    block: Blocks = None,
    journal_head: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="What `status` showed earlier: is it still there?"),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="First make lost objects of the vault again.")
    ] = False,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Replay stored blocks, all and the journal unless some are named, and compare digests."""
    opened = open_run(run, project)[1]
    events = opened.verifying(block, journal_head=journal_head, repair=repair)
    return shown.of_verification(watch(events))


@app.command()
def audit(run: RunFolder, *, project: Moved = None, _json: Json = False) -> Answer:
    """Train without the erased records from scratch, and compare."""
    made, opened = open_run(run, project)
    return shown.of_retraining(watch(auditing(opened, made.test)))


@app.command()
def report(run: RunFolder, *, _json: Json = False) -> Answer:
    """Write the evidence of a run as a page to hand on."""
    from obliviate.report import gathered, saved_page  # noqa: PLC0415 - matplotlib takes a second

    evidence = gathered(run)
    return shown.of_evidence(evidence, saved_page(run, evidence))


@app.command()
def bench(
    project: ProjectPath,
    *,
    blocks: Annotated[int | None, typer.Option(help="Instead of the project's own.")] = None,
    option: Options = None,
    _json: Json = False,
) -> Answer:
    """Measure on a project of your own what forgetting one record costs."""
    from obliviate.bench import benching  # noqa: PLC0415

    return shown.of_bench(watch(benching(load_project(project, options_of(option)), blocks)))


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
    return shown.of_year(planned(load, basis, chosen or BLOCKS, rhythms, limits, measured_at=own))


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
    _check_named(subject, record)
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
    from obliviate.demo import demonstrate  # noqa: PLC0415 - scikit-learn takes a second

    console = printing()
    console.quiet = json
    story = demonstrate(folder, console)
    return Answer(facts=vars(story), code=DONE if story.is_equal else FAILED)


def _method(name: str, **options: object) -> Method:
    given = {option: value for option, value in options.items() if value is not None}
    allowed = {each.name for each in fields(method_of(name))}
    for option in given:
        if option not in allowed:
            raise InvalidOption(
                f"the method {name} takes no {option}",
                hint=f"leave --{option} out, or choose another",
            )
    return method_of(name, **given)


def _seal(key_file: Path | None, key_variable: str | None) -> Seal | None:
    if key_file is not None and key_variable is not None:
        raise InvalidOption(
            "two master keys are given", hint="give --key-file or --key-variable, not both"
        )
    if key_file is not None:
        return KeyFile(key_file)
    return None if key_variable is None else KeyVariable(key_variable)


def _check_named(subjects: Sequence[str] | None, records: Sequence[int] | None) -> None:
    if not (subjects or records):
        raise InvalidOption(
            "the request names nobody", hint="give --subject NAME or --record ID, or several"
        )


def _picture(run: str, erasure: Erasure) -> Path | None:
    from obliviate.report import saved_picture  # noqa: PLC0415 - matplotlib takes a second

    return saved_picture(run, erasure.number) if erasure.number is not None else None
