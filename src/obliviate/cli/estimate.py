"""The command that works out what a planned training costs, and what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from obliviate.cli.options import Json
from obliviate.cli.output import Answer
from obliviate.cli.render import facts_of, facts_table
from obliviate.forecast.estimate import WRITTEN_BYTES_PER_SECOND, Plan, estimate_of
from obliviate.text import counted, duration, size

if TYPE_CHECKING:
    from obliviate.forecast.estimate import Cost, Estimate

StoreRate = Annotated[
    float | None,
    typer.Option(metavar="BYTES", help="A second, to and from the bucket that the vault is in."),
]

app = typer.Typer()


@app.command()
def estimate(
    *,
    parameters: Annotated[float, typer.Option(help="How many the model has, as in 8e9.")],
    steps: Annotated[int, typer.Option(help="Of an epoch.")],
    step_seconds: Annotated[float, typer.Option(help="How long a step takes.")],
    trainable: Annotated[
        float | None, typer.Option(help="How many parameters are trained, as in 40e6; all.")
    ] = None,
    parameter_bytes: Annotated[
        float, typer.Option(help="Of a trained parameter.")
    ] = Plan.parameter_bytes,
    frozen_bytes: Annotated[float, typer.Option(help="Of a frozen one.")] = Plan.frozen_bytes,
    moments: Annotated[
        float, typer.Option(help="What the optimizer carries, in states; of Adam 2.")
    ] = Plan.moments,
    epochs: Annotated[int, typer.Option(help="How often all records are gone through.")] = 1,
    blocks: Annotated[int, typer.Option(help="Blocks of an epoch.")] = Plan.blocks,
    keep: Annotated[
        int | None, typer.Option(help="Last epochs of which every update is kept; a fifth.")
    ] = None,
    records: Annotated[int, typer.Option(help="How many the ledger keeps.")] = 0,
    gpus: Annotated[int, typer.Option(help="How many GPUs a step computes on.")] = 1,
    gpu_hour_price: Annotated[float, typer.Option(help="Of one of them.")] = 0.0,
    store_rate: StoreRate = None,
    gigabyte_month_price: Annotated[
        float, typer.Option(help="Of keeping a gigabyte for a month.")
    ] = 0.0,
    lag: Annotated[
        float | None, typer.Option(help="Blocks that a fast erasure replays, if known better.")
    ] = None,
    block_overhead: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Beside the training of each replayed block."),
    ] = None,
    _json: Json = False,
) -> Answer:
    """Work out bytes, seconds and money per erasure of a model that is planned by its size."""
    plan = Plan(
        parameters=parameters,
        trainable=trainable,
        parameter_bytes=parameter_bytes,
        frozen_bytes=frozen_bytes,
        moments=moments,
        steps=steps,
        step_seconds=step_seconds,
        epochs=epochs,
        blocks=blocks,
        keep=keep,
        records=records,
        gpus=gpus,
        gpu_hour_price=gpu_hour_price,
        store_rate=store_rate,
        gigabyte_month_price=gigabyte_month_price,
        lag=lag,
        block_overhead=block_overhead,
    )
    return of_estimate(estimate_of(plan))


def of_estimate(found: Estimate) -> Answer:
    """The answer to `estimate`."""
    plan = found.plan
    rows = [
        ("a state in memory", size(found.state_bytes)),
        ("the frozen base, hashed at each opening", size(found.base_bytes)),
        ("the chain on disk", size(found.chain_bytes)),
        ("training by itself", duration(found.training_seconds)),
        ("to be stored meanwhile", f"{size(found.store_bytes_per_second)} a second"),
    ]
    if plan.records:
        rows.append(("the ledger", size(found.ledger_bytes)))
        rows.append(("making the ledger", duration(found.ledger_seconds)))
    if plan.gigabyte_month_price:
        rows.append(("keeping the chain for a month", f"{found.month_price:,.2f}"))
    costs = Table("one person", "takes", "of all training", "moved", "price")
    costs.add_row("to forget, fast", *_cells(found.forget, found))
    costs.add_row("to settle then, exact", *_cells(found.settle, found))
    shape = (
        f"{counted(plan.epochs, 'epoch')} of {counted(plan.blocks, 'block')}, "
        f"{counted(plan.steps, 'step')} of {plan.step_seconds:g} s each, on "
        f"{counted(plan.gpus, 'GPU')}"
    )
    return Answer(facts=facts_of(found), shown=[shape, facts_table(rows), costs, *_notes(found)])


def _cells(cost: Cost, found: Estimate) -> list[str]:
    return [
        duration(cost.seconds),
        f"{100 * cost.seconds / found.training_seconds:.1f} %",
        size(cost.moved_bytes),
        f"{cost.price:,.2f}" if found.plan.gpu_hour_price else "-",
    ]


def _notes(found: Estimate) -> list[str]:
    notes = [
        "- rates of storing, hashing and replaying are those of two slow cores; a run's own are "
        "taken with --run, once there is one",
        "- one exact replay settles whatever was asked for since the last: its price is shared",
    ]
    cores = found.store_bytes_per_second / WRITTEN_BYTES_PER_SECOND
    if cores > 1:
        notes.append(
            f"- storing keeps {cores:.1f} cores busy beside training, or slows it down: cut an "
            "epoch into fewer blocks, or let the optimizer begin anew in each"
        )
    return notes
