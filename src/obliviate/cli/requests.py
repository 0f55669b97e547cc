"""The commands of the desk: they read and write the ledger, and run no project."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import typer

from obliviate.cli import render
from obliviate.cli.exports import of_exports
from obliviate.cli.options import (
    Due,
    ExportPlace,
    Json,
    MethodName,
    Moved,
    Number,
    Policed,
    Reason,
    Records,
    RunFolder,
    RunFolders,
    Subjects,
    check_named,
    method_named,
)
from obliviate.cli.output import Answer, over
from obliviate.desk.desk import Desk
from obliviate.desk.policy import Policy
from obliviate.disk.paths import local_folder
from obliviate.errors import KeyMissing
from obliviate.ledger import Ledger
from obliviate.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from obliviate.vault import Seal

app = typer.Typer()


@contextlib.contextmanager
def desk_of(run: str, project: Path | None = None) -> Iterator[Desk]:
    """The desk of a run; the project is run only where it brings the key of a sealed vault.

    Args:
        run: The run's folder.
        project: The project file, where it is no longer the one that the run remembers.
    """
    folder = local_folder(run)
    with contextlib.ExitStack() as stack:
        try:
            desk = stack.enter_context(Desk.at(folder))
        except KeyMissing:
            desk = stack.enter_context(Desk.at(folder, _seal_of(folder, project)))
        yield desk


def _seal_of(folder: Path, file: Path | None) -> Seal | None:
    """The master key that the project of a run brings."""
    from obliviate.cli.project import project_of  # noqa: PLC0415 - it needs torch

    ledger = Ledger(folder)
    known = ledger.run().project
    ledger.close()
    return project_of(folder, known, file).seal if known or file else None


@app.command()
def preview(
    run: RunFolders,
    *,
    subject: Subjects = None,
    record: Records = None,
    method: MethodName = None,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Say what a request would touch and cost; nothing changes."""
    chosen = method_named(method)
    check_named(subject, record, run)

    def one(run: str) -> Answer:
        with desk_of(run, project) as desk:
            return render.of_plan(desk.preview(record or (), subject or (), chosen))

    return over(run, one)


@app.command()
def request(
    run: RunFolders,
    *,
    subject: Subjects = None,
    record: Records = None,
    due: Due = None,
    method: MethodName = None,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Register a request, to be carried out later by `work`."""
    chosen = method_named(method)
    check_named(subject, record, run)

    def one(run: str) -> Answer:
        with desk_of(run, project) as desk:
            return render.of_request(desk.request(record, subject, due=due, method=chosen))

    return over(run, one)


@app.command()
def refuse(
    run: RunFolder,
    number: Number,
    *,
    reason: Reason,
    _json: Json = False,
) -> Answer:
    """Close a request that waits, without carrying it out."""
    with desk_of(run) as desk:
        return render.of_request(desk.refuse(number, reason))


@app.command()
def lift(
    run: RunFolder,
    *,
    subject: Subjects = None,
    record: Records = None,
    reason: Reason,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Lift tombstones, where consent was given again."""
    check_named(subject, record)
    with desk_of(run, project) as desk:
        lifted = desk.lift(record, subject, reason=reason)
    return Answer(facts={"lifted": lifted}, shown=[f"{counted(lifted, 'tombstone')} lifted"])


@app.command()
def withdraw(run: RunFolder, place: ExportPlace, *, _json: Json = False) -> Answer:
    """Tell a run that what was exported to a place was destroyed."""
    with desk_of(run) as desk:
        return of_exports(desk.withdraw(place))


@app.command()
def queue(
    run: RunFolder,
    *,
    margin: Policed = Policy.margin_days,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """List the requests that are not closed, what they cost, and what `work` would do now."""
    with desk_of(run, project) as desk:
        return render.of_queue(desk.queue(Policy(margin_days=margin)))


@app.command()
def status(run: RunFolder, *, project: Moved = None, _json: Json = False) -> Answer:
    """Say how a run stands."""
    with desk_of(run, project) as desk:
        return render.of_status(desk.status())
