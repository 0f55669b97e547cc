"""The command that simulates a year of requests, and what it answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from obliviate.chain.spacing import UPDATE_RATIO
from obliviate.cli.options import Json, Moved
from obliviate.cli.output import Answer
from obliviate.cli.project import open_run
from obliviate.cli.render import facts_of
from obliviate.errors import InvalidOption
from obliviate.forecast.requests import DAY, DAYS_A_YEAR, HOUR, Load
from obliviate.forecast.simulation import Limits
from obliviate.forecast.year import (
    basis_of,
    basis_of_run,
    with_given,
    year_of,
)
from obliviate.recipe.parts import usual_keep
from obliviate.text import counted, duration, percent, size

if TYPE_CHECKING:
    from pathlib import Path

    from obliviate.forecast.costs import Basis
    from obliviate.forecast.simulation import Forecast, Waits
    from obliviate.forecast.year import Year

RULE = (
    "the fewest machine hours a year among those that keep to the limits on the 99th percentile of "
    "the time to forget, on the share of requests exact when due, and on the disk"
)
DAYS = {"hour": HOUR / DAY, "day": 1.0, "week": 7.0, "month": DAYS_A_YEAR / 12}
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(hour|day|week|month)\s*")
_WAITS = ("50 %", "95 %", "99 %", "longest")

Rate = Annotated[
    str, typer.Option(metavar="N/UNIT", help="Requests to expect, as in 20/day; or hour, ...")
]
Numbers = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="Numbers of blocks of an epoch to compare.")
]
Epochs = Annotated[int | None, typer.Option(help="Epochs; the run's, or 1.")]
Keep = Annotated[
    int | None,
    typer.Option(help="Last epochs of which every update is kept; as in the run, or a fifth."),
]
Back = Annotated[
    int | None,
    typer.Option(help="Last epochs that a fast erasure goes back to; all that are kept."),
]
Records = Annotated[
    int, typer.Option(help="Records of a request that are dealt singly; 1 for people together.")
]
Settlings = Annotated[
    str, typer.Option(metavar="DAYS,DAYS,...", help="Days between settlings to compare.")
]
Source = Annotated[
    str | None, typer.Option(metavar="RUN", help="A run to take times and sizes from.")
]
Training = Annotated[
    float | None, typer.Option(help="Without a run: how long training takes, all epochs.")
]
Moments = Annotated[
    float | None,
    typer.Option(help="Without a run: what an optimizer carries, in states; of Adam 2."),
]
StateBytes = Annotated[float | None, typer.Option(help="Without a run: the size of a state.")]
Lag = Annotated[
    float | None, typer.Option(help="Blocks that a fast erasure replays, if known better.")
]
BlockOverhead = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Beside the training of each replayed block."),
]
PassOverhead = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="For each pass, fast or exact.")
]
Ratio = Annotated[float, typer.Option(help="Without a run: an update's size on disk, in states.")]
Share = Annotated[float, typer.Option(help="Limit: the share of requests that is exact when due.")]
Hours = Annotated[
    float, typer.Option(help="Limit: 99 % of the requests are forgotten within so many hours.")
]
DiskBytes = Annotated[float | None, typer.Option(help="Limit: the size of the chain.")]

app = typer.Typer()


@app.command()
def forecast(
    *,
    rate: Rate,
    days: Annotated[float, typer.Option(help="For how long they arrive.")] = 365,
    blocks: Numbers = None,
    epochs: Epochs = None,
    keep: Keep = None,
    back: Back = None,
    settle: Settlings = "1,7,28",
    run: Source = None,
    training_seconds: Training = None,
    state_bytes: StateBytes = None,
    moments: Moments = None,
    records_per_request: Records = 1,
    lag: Lag = None,
    block_overhead: BlockOverhead = None,
    pass_overhead: PassOverhead = None,
    update_ratio: Ratio = UPDATE_RATIO,
    due_days: Annotated[float, typer.Option(help="Requests are due after so many days.")] = 30,
    exact_share: Share = 1.0,
    forget_hours: Hours = 24,
    disk_bytes: DiskBytes = None,
    seed: Annotated[int, typer.Option(help="Of the random requests.")] = 0,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Simulate a year of requests and recommend how to serve them."""
    load = Load(per_day=rate_of(rate), days=days, records=records_per_request, seed=seed)
    limits = Limits(
        forget_seconds=forget_hours * HOUR,
        due_seconds=due_days * DAY,
        exact_in_time=exact_share,
        disk_bytes=disk_bytes,
    )
    rhythms = numbers_of(settle, "--settle")
    compared = whole_numbers_of(blocks, "--blocks") if blocks is not None else None
    basis = _basis(
        run,
        project,
        epochs=epochs,
        training_seconds=training_seconds,
        state_bytes=state_bytes,
        moments=moments,
        update_ratio=update_ratio,
    )
    basis = with_given(
        basis,
        epochs=epochs,
        lag=lag,
        overhead_seconds=block_overhead,
        pass_seconds=pass_overhead,
    )
    return of_year(
        year_of(load, basis, limits, blocks=compared, keep=keep, back=back, every_days=rhythms)
    )


def _basis(
    run: str | None,
    project: Path | None,
    *,
    epochs: int | None,
    training_seconds: float | None,
    state_bytes: float | None,
    moments: float | None,
    update_ratio: float,
) -> Basis:
    """What is known of the training: from a run, or as it is given."""
    check_source(run, training_seconds, state_bytes, moments)
    if run is not None:
        return basis_of_run(open_run(run, project)[1])
    return basis_of(
        training_seconds or 0.0,
        state_bytes,
        epochs=1 if epochs is None else epochs,
        moments=moments or 0.0,
        update_ratio=update_ratio,
    )


def rate_of(text: str) -> float:
    """The requests a day of a rate like 20/day.

    Raises:
        InvalidOption: It has another form.
    """
    match = _RATE.fullmatch(text)
    if match is None:
        raise InvalidOption(
            f"the rate {text!r} is not of the form N/{'|'.join(DAYS)}",
            hint="give it as in `--rate 20/day` or `--rate 0.5/week`",
        )
    return float(match[1]) / DAYS[match[2]]


def numbers_of(text: str, option: str) -> list[float]:
    """The numbers of a list like 100,200,500, ascending, each once.

    Raises:
        InvalidOption: It has another form.
    """
    try:
        return sorted({float(each) for each in text.split(",")})
    except ValueError as error:
        raise InvalidOption(
            f"{option} is {text!r}", hint=f"give numbers and commas, as in `{option} 7,28`"
        ) from error


def whole_numbers_of(text: str, option: str) -> list[int]:
    """The whole numbers of such a list."""
    numbers = numbers_of(text, option)
    for each in numbers:
        if not each.is_integer():
            raise InvalidOption(
                f"{option} is {text!r}, but {each:g} is no whole number",
                hint=f"give whole numbers, as in `{option} 100,200`",
            )
    return [int(each) for each in numbers]


def check_source(
    run: str | None,
    training_seconds: float | None,
    state_bytes: float | None,
    moments: float | None,
) -> None:
    """See that times and sizes come from one place.

    Raises:
        InvalidOption: They come from none, or from two.
    """
    if run is None and training_seconds is None:
        raise InvalidOption(
            "how long training takes is not known",
            hint="give --run RUN, or --training-seconds S and --state-bytes N",
        )
    if run is not None and (training_seconds, state_bytes, moments) != (None, None, None):
        raise InvalidOption(
            f"times and sizes are those of the run {run}, and given as well",
            hint="leave out --run, or --training-seconds, --state-bytes and --moments",
        )


def of_year(year: Year) -> Answer:
    """The answer to `forecast`."""
    words = _recommendation(year)
    facts = facts_of(year) | {
        "forecasts": [_facts(each) for each in year.forecasts],
        "recommended": _facts(year.recommended) if year.recommended else None,
        "trades": [vars(trade) for trade in year.trades],
        "rule": RULE,
        "recommendation": words,
    }
    cost = Table("blocks", "served", "s a request", "blocks replayed", "hours a year", "disk")
    forgotten = Table("blocks", "until forgotten", *_WAITS)
    exact = Table("blocks", "until exact", *_WAITS, "in time")
    for each in year.forecasts:
        named = (str(each.blocks), _served(each))
        cost.add_row(
            *named,
            f"{each.fast_seconds:.4g} + {each.settling_seconds:.4g}",
            f"{each.blocks_replayed:.1f}",
            f"{each.machine_hours:.4g}",
            size(each.disk_bytes),
        )
        forgotten.add_row(*named, *_waited(each.to_forget))
        exact.add_row(*named, *_waited(each.to_exact), percent(each.exact_in_time))
    room = Table("blocks", "epochs kept in full", "disk", "to forget fast", "to settle then")
    for trade in year.trades:
        room.add_row(
            str(trade.blocks),
            _kept(trade.keep, year.basis.epochs),
            size(trade.disk_bytes),
            duration(trade.fast_seconds),
            duration(trade.settling_seconds),
        )
    summary = (
        f"{counted(year.requests, 'request')} in {year.load.days:g} days: "
        "what each costs (fast + its share of settling), and how long they wait"
    )
    return Answer(
        facts=facts,
        shown=[
            summary,
            cost,
            forgotten,
            exact,
            *([room] if year.trades else []),
            *(f"- {note}" for note in year.notes),
            words,
        ],
    )


def _facts(forecast: Forecast) -> dict[str, Any]:
    return vars(forecast) | {"seconds_per_request": forecast.seconds_per_request}


def _kept(keep: int, epochs: int) -> str:
    words = {epochs: "all", usual_keep(epochs): "usual"}
    return f"{keep} ({words[keep]})" if keep in words else str(keep)


def _served(forecast: Forecast) -> str:
    days = f"{forecast.every_days:g} d"
    return f"fast, exact every {days}" if forecast.is_fast else f"exact only, every {days}"


def _waited(waits: Waits | None) -> list[str]:
    if waits is None:
        return ["-"] * len(_WAITS)
    return [*map(duration, (waits.p50, waits.p95, waits.p99, waits.longest))]


def _recommendation(year: Year) -> str:
    limits, best = year.limits, year.recommended
    disk = "" if limits.disk_bytes is None else f", on {size(limits.disk_bytes)} of disk at most"
    asked = (
        f"99 % of the requests are forgotten within {duration(limits.forget_seconds)} and "
        f"{100 * limits.exact_in_time:g} % are exact within {duration(limits.due_seconds)}{disk}"
    )
    if not year.requests:
        return "nobody asked: there is nothing to recommend; simulate more days"
    if best is None:
        waits = [each.to_forget.p99 for each in year.forecasts if each.to_forget]
        share = max(each.exact_in_time for each in year.forecasts)
        room = min(each.disk_bytes or 0 for each in year.forecasts)
        return (
            f"recommended: none of these, for in none {asked}; the best, each for itself, are "
            f"{duration(min(waits))} and {percent(share)}" + (f" and {size(room)}" if disk else "")
        )
    way = "carry requests out fast at once and settle" if best.is_fast else "erase exactly only,"
    epoch = "every epoch " if year.basis.epochs > 1 else ""
    numbers = {each.blocks for each in year.forecasts}
    is_edge = len(numbers) > 1 and best.blocks == max(numbers)
    return (
        f"recommended: cut {epoch}into {counted(best.blocks, 'block')}, {way} every "
        f"{best.every_days:g} days: {best.machine_hours:.4g} machine hours a year, the fewest "
        f"where {asked}"
        + ("; more blocks than were compared may be cheaper still" if is_edge else "")
    )
