"""What is said of exports, wherever a command says something of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from obliviate.cli.output import Answer
from obliviate.text import moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from obliviate.ledger import ExportFacts

_STANDINGS = {
    "current": "the same model",
    "older": "an older model",
    "stale": "holds people who were erased since",
}


def of_exports(exports: Sequence[ExportFacts]) -> Answer:
    """The answer to `export` and `withdraw`."""
    return Answer(facts={"exports": exports}, shown=[exports_table(exports)])


def exports_table(exports: Iterable[ExportFacts]) -> Table:
    """Exports, a line each."""
    table = Table("export", "place", "form", "made", "guarantee", "state", "beside the run")
    for each in exports:
        cells = (each.id, each.place, each.form, moment(each.made), each.guarantee, each.state)
        table.add_row(*map(str, (*cells, _STANDINGS[each.standing])))
    return table


def still_held(exports: Iterable[ExportFacts]) -> list[str]:
    """Which exports hold people who were erased since, and what to do about it."""
    return [
        f"export {each.id} in {each.place} holds people who were erased since "
        f"(erasure {', '.join(map(str, each.erased_since))}): export to that place again, or "
        "destroy what is there and call `obliviate withdraw`"
        for each in exports
        if each.holds_erased
    ]
