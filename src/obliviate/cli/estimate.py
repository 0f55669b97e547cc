"""What `forecast` answers about a training that is planned by its sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from obliviate.cli.output import Answer
from obliviate.cli.render import facts_of, facts_table
from obliviate.forecast.estimate import WRITTEN_BYTES_PER_SECOND
from obliviate.text import counted, duration, size

if TYPE_CHECKING:
    from obliviate.forecast.estimate import Cost, Estimate

Parameters = Annotated[
    float | None, typer.Option(help="Instead of a rate: how many a planned model has, as in 8e9.")
]
Trainable = Annotated[
    float | None, typer.Option(help="How many of them are trained, as in 40e6; all.")
]
ParameterBytes = Annotated[float, typer.Option(help="Of a trained parameter.")]
FrozenBytes = Annotated[float, typer.Option(help="Of a frozen one.")]
Steps = Annotated[int | None, typer.Option(help="Of an epoch.")]
StepSeconds = Annotated[float | None, typer.Option(help="How long a step takes.")]
Gpus = Annotated[int, typer.Option(help="How many GPUs a step computes on.")]
GpuHourPrice = Annotated[float, typer.Option(help="Of one of them.")]
StoreRate = Annotated[
    float | None,
    typer.Option(metavar="BYTES", help="A second, to and from the bucket that the vault is in."),
]
MonthPrice = Annotated[float, typer.Option(help="Of keeping a gigabyte for a month.")]
LedgerRecords = Annotated[int, typer.Option("--records", help="How many there are.")]


def of_estimate(estimate: Estimate) -> Answer:
    """The answer to `forecast --parameters`."""
    plan = estimate.plan
    rows = [
        ("a state in memory", size(estimate.state_bytes)),
        ("the frozen base, hashed at each opening", size(estimate.base_bytes)),
        ("the chain on disk", size(estimate.chain_bytes)),
        ("training by itself", duration(estimate.training_seconds)),
        ("to be stored meanwhile", f"{size(estimate.store_bytes_per_second)} a second"),
    ]
    if plan.records:
        rows.append(("the ledger", size(estimate.ledger_bytes)))
        rows.append(("making the ledger", duration(estimate.ledger_seconds)))
    if plan.gigabyte_month_price:
        rows.append(("keeping the chain for a month", f"{estimate.month_price:,.2f}"))
    costs = Table("one person", "takes", "of all training", "moved", "price")
    costs.add_row("to forget, fast", *_cells(estimate.forget, estimate))
    costs.add_row("to settle then, exact", *_cells(estimate.settle, estimate))
    shape = (
        f"{counted(plan.epochs, 'epoch')} of {counted(plan.blocks, 'block')}, "
        f"{counted(plan.steps, 'step')} of {plan.step_seconds:g} s each, on "
        f"{counted(plan.gpus, 'GPU')}"
    )
    return Answer(
        facts=facts_of(estimate), shown=[shape, facts_table(rows), costs, *_notes(estimate)]
    )


def _cells(cost: Cost, estimate: Estimate) -> list[str]:
    return [
        duration(cost.seconds),
        f"{100 * cost.seconds / estimate.training_seconds:.1f} %",
        size(cost.moved_bytes),
        f"{cost.price:,.2f}" if estimate.plan.gpu_hour_price else "-",
    ]


def _notes(estimate: Estimate) -> list[str]:
    notes = [
        "- rates of storing, hashing and replaying are those of two slow cores; a run's own are "
        "taken with --run, once there is one",
        "- one exact replay settles whatever was asked for since the last: its price is shared",
    ]
    cores = estimate.store_bytes_per_second / WRITTEN_BYTES_PER_SECOND
    if cores > 1:
        notes.append(
            f"- storing keeps {cores:.1f} cores busy beside training, or slows it down: cut an "
            "epoch into fewer blocks, or let the optimizer begin anew in each"
        )
    return notes
