"""The commands about a run's vault, and what they answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from obliviate.chain.custody import remove_orphans
from obliviate.chain.inventory import REMEDIES, ROLES, taking_stock
from obliviate.cli.options import Json, Moved, RunFolder
from obliviate.cli.output import DONE, FAILED, Answer
from obliviate.cli.project import open_chain
from obliviate.cli.render import facts_of, facts_table, listed
from obliviate.events import watch
from obliviate.text import counted, size
from obliviate.vault import KeyFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obliviate.chain.inventory import Inventory
    from obliviate.ledger import ObjectFacts

NewFile = Annotated[Path, typer.Argument(metavar="FILE", help="A file that is not there yet.")]
_STATES = ("live", "condemned", "destroyed")

app = typer.Typer()


@app.command()
def vault(
    run: RunFolder,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Read every object, and say what is damaged.")
    ] = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Remove what no row of the ledger names.")
    ] = False,
    objects: Annotated[
        bool, typer.Option("--objects", help="List every object there is or was.")
    ] = False,
    project: Moved = None,
    _json: Json = False,
) -> Answer:
    """Say what lies in a run's vault, and whether all of it is what was written."""
    ledger, place, chain = open_chain(run, project)
    removed = remove_orphans(ledger, place) if orphans else ()
    inventory = watch(taking_stock(ledger, place, chain, check=check))
    return of_inventory(inventory, removed, is_listed=objects)


@app.command(name="make-key")
def make_key(
    file: NewFile,
    *,
    _json: Json = False,
) -> Answer:
    """Make a master key that vaults can be sealed with."""
    KeyFile.create(file)
    lines = [
        f"{file} holds a new master key; its owner alone can read it",
        "keep a copy apart from the vault and its backups: without it nothing can be read",
    ]
    return Answer(facts={"file": file}, shown=lines)


def of_inventory(inventory: Inventory, removed: Sequence[str], *, is_listed: bool) -> Answer:
    """The answer to `vault`."""
    facts: dict[str, Any] = {
        "place": inventory.place,
        "is_sealed": inventory.is_sealed,
        "counts": {state: inventory.counts.get(state, 0) for state in _STATES},
        "size_bytes": inventory.size_bytes(),
        "roles": {
            role: {"objects": inventory.count(role), "size_bytes": inventory.size_bytes(role)}
            for role in ROLES
        },
        "orphans": inventory.orphans,
        "foreign": inventory.foreign,
        "missing": inventory.missing,
        "removed": removed,
        "is_checked": inventory.is_checked,
        "lost": [vars(each) for each in inventory.lost],
        "faults": list(inventory.faults),
    }
    if is_listed:
        facts["objects"] = [_listed(inventory, each) for each in inventory.objects]
    rows = [
        ("vault", f"{inventory.place}, {'sealed' if inventory.is_sealed else 'not sealed'}"),
        *((state, counted(number, "object")) for state, number in facts["counts"].items()),
        ("size", size(inventory.size_bytes())),
        *(
            (f"{role}s", f"{inventory.count(role)}, {size(inventory.size_bytes(role))}")
            for role in ROLES
            if inventory.count(role)
        ),
        ("orphans", listed(inventory.orphans)),
        *([("missing", listed(inventory.missing))] if inventory.missing else []),
        *([("not ours, never touched", listed(inventory.foreign))] if inventory.foreign else []),
        *([("removed", listed(removed))] if removed else []),
    ]
    shown: list[Any] = [facts_table(rows)]
    if is_listed:
        shown.append(_table(facts["objects"]))
    shown += [
        f"block {each.block}, {each.role}: {each.reason}. {REMEDIES[each.remedy]}"
        for each in inventory.lost
    ]
    if inventory.is_checked:
        shown.append(_verdict(inventory))
    shown += [f"the ledger was changed from outside: {fault}" for fault in inventory.faults]
    return Answer(
        facts=facts, shown=shown, code=FAILED if inventory.lost or inventory.faults else DONE
    )


def _verdict(inventory: Inventory) -> str:
    if not inventory.lost:
        return "every object in use was read, and is what was written"
    can = sum(each.remedy != "settle" for each in inventory.lost)
    verdict = f"{counted(len(inventory.lost), 'object')} lost"
    if can:
        verdict += f"; `obliviate verify RUN --repair` makes {can} of them again"
    return verdict


def _listed(inventory: Inventory, facts: ObjectFacts) -> dict[str, object]:
    block, role = inventory.uses.get(facts.stored.key, (None, None))
    row = facts_of(facts.stored)
    row |= {"state": facts.state, "made": facts.made, "destroyed": facts.destroyed}
    row["sealed_key"] = "kept" if facts.stored.sealed_key is not None else None
    return row | {"block": block, "role": role}


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("object", "block", "what", "size", "state", "made", "destroyed")
    for row in rows:
        block = "" if row["block"] is None else str(row["block"])
        table.add_row(
            row["key"],
            block,
            row["role"] or "",
            size(row["size_bytes"]),
            row["state"],
            row["made"],
            row["destroyed"] or "",
        )
    return table
