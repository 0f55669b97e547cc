"""What several commands can be given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from obliviate.errors import InvalidOption
from obliviate.methods.registry import method_of, names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obliviate.methods.method import Method


ProjectPath = Annotated[
    Path, typer.Argument(metavar="PROJECT", help="A Python file that defines `project`.")
]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The run's folder.")]
RunFolders = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="The run's folder; or those of several, for a person."),
]
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
    str | None,
    typer.Option(
        "--method",
        "-m",
        metavar="NAME",
        help=f"One of {', '.join(names())}; with options as in deepobliviate:epsilon=0.01. If not "
        "given, calibrated where the run was made with references, else deepobliviate.",
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
Workers = Annotated[
    int | None,
    typer.Option(
        help="How many processes, side by side; one if not given, and on a cluster what there is "
        "room for."
    ),
]
On = Annotated[
    str,
    typer.Option(
        metavar="local|ray|ray://HOST:PORT",
        help="Who carries it out: processes of this machine, or a Ray cluster: the one that "
        "RAY_ADDRESS leads to, else one that is started here; or the one of that address.",
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
Due = Annotated[
    str | None,
    typer.Option(metavar="DATE", help="The deadline, such as 2030-12-20; a month if not given."),
]
Number = Annotated[int, typer.Argument(metavar="REQUEST", help="The request's number.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept.")]
ExportPlace = Annotated[
    str, typer.Argument(metavar="PLACE", help="A folder of the export's own, or a URL.")
]
Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON object.")]


def method_named(name: str | None) -> Method | None:
    """The method of a name, or None for the best one of each run.

    Raises:
        UnknownMethod, InvalidOption: There is none like that.
    """
    return None if name is None else method_of(name)


def check_named(
    subjects: Sequence[str] | None, records: Sequence[int] | None, runs: Sequence[str] = ()
) -> None:
    """Refuse a request that names nobody, or whose record ids could mean several records."""
    if records and len(runs) > 1:
        raise InvalidOption(
            f"--record {records[0]} is asked of {len(runs)} runs, each with records of its own",
            hint="name people by --subject, or ask one run after the other",
        )
    if not (subjects or records):
        raise InvalidOption(
            "the request names nobody", hint="give --subject NAME or --record ID, or several"
        )
