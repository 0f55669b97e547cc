"""The commands about requests: what was asked for, and when it is carried out."""

from __future__ import annotations

from typing import Annotated

import typer

from obliviate.cli import shown
from obliviate.cli.answer import Answer, over
from obliviate.cli.options import (
    Epsilon,
    Functional,
    Json,
    MethodName,
    Moved,
    Policed,
    Records,
    RunFolder,
    RunFolders,
    Subjects,
    Tolerance,
    Wait,
    app,
    check_named,
    chosen_method,
)
from obliviate.cli.project import open_ledger, open_run
from obliviate.policy import Policy
from obliviate.queue import refused
from obliviate.run import DEFAULT_METHOD
from obliviate.terminal import watch_replay
from obliviate.wording import counted


@app.command()
def request(
    run: RunFolders,
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
    chosen = chosen_method(method, epsilon=epsilon, tolerance=tolerance, functional=functional)
    check_named(subject, record, run)

    def one(run: str) -> Answer:
        opened = open_run(run, project)[1]
        return shown.of_request(opened.request(record, subject, due=due, method=chosen))

    return over(run, one)


@app.command()
def refuse(
    run: RunFolder,
    number: Annotated[int, typer.Argument(metavar="REQUEST", help="The request's number.")],
    *,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    _json: Json = False,
) -> Answer:
    """Close a request that waits, without carrying it out."""
    ledger = open_ledger(run)
    return shown.of_request(refused(ledger, number, reason, run))


@app.command()
def lift(
    run: RunFolder,
    *,
    subject: Subjects = None,
    record: Records = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Lift tombstones, where consent was given again."""
    check_named(subject, record)
    lifted = open_run(run, project)[1].lift(record, subject, reason=reason)
    return Answer(facts={"lifted": lifted}, shown=[f"{counted(lifted, 'tombstone')} lifted"])


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
