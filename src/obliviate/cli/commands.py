"""The commands about a run: making it, erasing from it, looking at it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer evaluates annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from obliviate import lab as laboratory
from obliviate.cli import render
from obliviate.cli.exports import of_exports, still_held
from obliviate.cli.options import (
    Blocks,
    ExportPlace,
    Json,
    MethodName,
    Moved,
    Options,
    ProjectPath,
    Records,
    RunFolder,
    RunFolders,
    Subjects,
    Wait,
    check_named,
    method_named,
)
from obliviate.cli.output import Answer, over
from obliviate.cli.project import (
    addition_of,
    open_ledger,
    open_run,
    options_of,
    remembered,
)
from obliviate.cli.terminal import watch_replay
from obliviate.errors import InvalidOption
from obliviate.events import watch
from obliviate.export import forms
from obliviate.launch import is_speaking
from obliviate.recipe.project import load_project
from obliviate.run import start
from obliviate.text import percent
from obliviate.vault import KeyFile, KeyVariable

if TYPE_CHECKING:
    from obliviate.erasure.results import Erasure
    from obliviate.recipe.recipe import Project
    from obliviate.run import Run
    from obliviate.vault import Seal

app = typer.Typer()


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
    source = load_project(project, options)
    started = time.perf_counter()
    result = start.fit(
        source.recipe,
        source.data,
        run,
        blocks=source.blocks,
        keep=source.keep,
        evaluate=source.evaluate,
        every=source.every,
        stop=source.stop,
        subjects=source.subjects,
        reference=source.reference,
        project=remembered(project, options),
        vault=vault,
        seal=_seal(key_file, key_variable) or source.seal,
        disk_budget=disk_budget,
    )
    return of_fit(result, run, source, time.perf_counter() - started)


def of_fit(result: Run, place: str, source: Project, seconds: float) -> Answer:
    """The answer to `fit`.

    Args:
        result: The run.
        place: Its folder, as it was given.
        source: The project that it was made with.
        seconds: How long it took.
    """
    facts: dict[str, Any] = {
        "run": place,
        "records": result.facts.records,
        "blocks": result.facts.blocks,
        "guarantee": result.guarantee,
        "digest": result.digest,
        "accuracy": laboratory.accuracy(
            result.model, source.test, source.recipe.device, source.recipe.collate
        ),
        "seconds": seconds,
    }
    rows = [*facts.items()][:-2]
    rows += [("test accuracy", percent(facts["accuracy"])), ("seconds", f"{seconds:.2f}")]
    return Answer(facts=facts, shown=[render.facts_table(rows)])


@app.command()
def forget(
    run: RunFolders,
    *,
    subject: Subjects = None,
    record: Records = None,
    method: MethodName = None,
    project: Moved = None,
    wait: Wait = None,
    _json: Json = False,
) -> Answer:
    """Erase people or records from a run, for good."""
    chosen = method_named(method)
    check_named(subject, record, run)

    def one(run: str) -> Answer:
        opened = open_run(run, project, wait)[1]
        erasure = watch_replay(opened.forget.events(record or (), subject or (), chosen))
        answer = render.of_erasure(erasure, _picture(run, erasure))
        return replace(answer, shown=[*answer.shown, *still_held(opened.exports())])

    return over(run, one)


@app.command()
def settle(
    run: RunFolder, *, project: Moved = None, wait: Wait = None, _json: Json = False
) -> Answer:
    """Replace everything approximate in a run by exact replay."""
    erasure = watch_replay(open_run(run, project, wait)[1].settle.events())
    return render.of_erasure(erasure, _picture(run, erasure))


@app.command()
def extend(
    run: RunFolder,
    *,
    blocks: Annotated[
        int | None,
        typer.Option(help="Blocks to cut each epoch into; of about the old size if not given."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="How often; if not given, as the recipe over new records, once over all."
        ),
    ] = None,
    over: Annotated[
        str, typer.Option(metavar="new|all", help="Train on the new records alone, or on all.")
    ] = "new",
    exclude: Annotated[
        list[int] | None,
        typer.Option(metavar="ID", help="A new record to leave out; can be given several times."),
    ] = None,
    refuse_requested: Annotated[
        bool,
        typer.Option(
            "--refuse-requested", help="Do nothing where new records are of people who wait."
        ),
    ] = False,
    project: Moved = None,
    wait: Wait = None,
    _json: Json = False,
) -> Answer:
    """Train on the records that the project's data has now beyond those of the run."""
    source, opened = open_run(run, project, wait)
    extension = watch(
        opened.extend.events(
            **(addition_of(source, opened) | {"over": over}),
            blocks=blocks,
            epochs=epochs,
            exclude=exclude or (),
            requested="refuse" if refuse_requested else "exclude",
        )
    )
    return render.of_extension(extension, opened.status())


@app.command()
def export(
    run: RunFolder,
    place: ExportPlace,
    *,
    form: Annotated[
        str, typer.Option(metavar="FORM", help=f"One of {', '.join(forms.names())}.")
    ] = "safetensors",
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Hand the model on: into a folder of its own, which the run remembers."""
    return of_exports([open_run(run, project)[1].export(place, form)])


@app.command(name="destroy-key")
def destroy_key(
    run: RunFolder,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="It cannot be undone.")] = False,
    _json: Json = False,
) -> Answer:
    """Destroy the key under which subjects are hashed: nobody can be found by name any more."""
    if not yes:
        raise InvalidOption(
            "destroying the subject key cannot be undone", hint="say --yes if that is what you want"
        )
    open_ledger(run).destroy_subject_key()
    return Answer(facts={"destroyed": True}, shown=["the subject key is destroyed"])


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
    data: Annotated[
        bool, typer.Option("--data", help="Also compare every record with what it was.")
    ] = False,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Replay stored blocks, all and the journal unless some are named, and compare digests."""
    opened = open_run(run, project)[1]
    events = opened.verify.events(block, journal_head=journal_head, repair=repair, data=data)
    return render.of_verification(watch(events))


@app.command()
def audit(run: RunFolder, *, project: Moved = None, _json: Json = False) -> Answer:
    """Train without the erased records from scratch, and compare."""
    source, opened = open_run(run, project)
    return render.of_retraining(laboratory.audit(opened, source.test))


@app.command()
def report(run: RunFolder, *, _json: Json = False) -> Answer:
    """Write the evidence of a run as a page to hand on."""
    from obliviate.evidence import gathered, saved_page  # noqa: PLC0415 - matplotlib takes a second

    evidence = gathered(run)
    return render.of_evidence(evidence, saved_page(run, evidence))


def _seal(key_file: Path | None, key_variable: str | None) -> Seal | None:
    if key_file is not None and key_variable is not None:
        raise InvalidOption(
            "two master keys are given", hint="give --key-file or --key-variable, not both"
        )
    if key_file is not None:
        return KeyFile(key_file)
    return None if key_variable is None else KeyVariable(key_variable)


def _picture(run: str, erasure: Erasure) -> Path | None:
    from obliviate.evidence import saved_picture  # noqa: PLC0415 - matplotlib takes a second

    if erasure.number is None or not is_speaking():
        return None
    return saved_picture(run, erasure.number)
