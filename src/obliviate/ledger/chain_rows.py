"""The chain in rows, and between its rows and facts."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import func, select

from obliviate.clock import stamp
from obliviate.errors import PUT_BACK, RunDamaged
from obliviate.ledger import tables
from obliviate.ledger.change import batched
from obliviate.ledger.database import RunRows, damaged
from obliviate.ledger.facts import Entry
from obliviate.vault.vault import Stored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from sqlalchemy import ColumnElement, Connection, Row, Table

    from obliviate.ledger.change import Change

OBJECT_COLUMNS = ("update", "keyframe", "optimizer")
_ROWS_AT_ONCE = 300
_PLAIN_COLUMNS = (
    "block",
    "origin",
    "guarantee",
    "digest",
    "loss",
    "evaluation",
    "seconds",
    "erasure",
)


def columns_of(rows: Sequence[Sequence[int]], count: int) -> list[NDArray[np.int64]]:
    """The columns of rows of whole numbers. Shape (n,) each.

    numpy takes a row of SQLAlchemy's for an object to be asked, which makes it ten times as slow.
    """
    columns = zip(*rows, strict=True) if rows else ((),) * count
    return [np.array(column, dtype=np.int64) for column in columns]


def blocks_in_words(entries: Sequence[Entry]) -> str:
    """The blocks of entries that follow each other."""
    first, last = entries[0].block, entries[-1].block
    return f"block {first}" if first == last else f"blocks {first} to {last}"


def insert_entries(change: Change, table: Table, entries: Sequence[Entry]) -> None:
    """Insert entries, and the objects among theirs that the ledger does not know yet."""
    stored = [stored for entry in entries for stored in entry.objects]
    known: set[str] = set()
    objects = tables.objects.c
    for some in batched([each.key for each in stored]):
        query = select(objects.key).where(objects.run == change.run, objects.key.in_(some))
        known |= set(change.connection.execute(query).scalars())
    made = {"state": "live", "made": stamp()}
    rows = [vars(each) | made for each in stored if each.key not in known]
    change.insert(tables.objects, rows)
    change.insert(table, [row_of(entry) for entry in entries])


def row_of(entry: Entry) -> dict[str, object]:
    """The row of an entry."""
    row: dict[str, object] = {name: getattr(entry, name) for name in _PLAIN_COLUMNS}
    for name in OBJECT_COLUMNS:
        stored = getattr(entry, name)
        row[name] = stored.key if stored else None
    return row


def live_objects(connection: Connection, run: int) -> dict[str, Stored]:
    """All live objects, by key."""
    columns = tables.objects.c
    query = select(columns.key, columns.size_bytes, columns.hash, columns.sealed_key).where(
        columns.run == run, columns.state == "live"
    )
    return {row.key: stored_of(row) for row in connection.execute(query)}


def stored_of(row: Any) -> Stored:
    """The object of a row."""
    # of what is condemned nothing may be left but the key
    size, digest = row.size_bytes or 0, row.hash or ""
    return Stored(key=row.key, size_bytes=size, hash=digest, sealed_key=row.sealed_key)


def entry_of(row: Row[Any], objects: Mapping[str, Stored]) -> Entry:
    """The entry of a row.

    Raises:
        RunDamaged: It holds on to an object that is not live.
    """
    values = {name: getattr(row, name) for name in _PLAIN_COLUMNS}
    for name in OBJECT_COLUMNS:
        key = getattr(row, name)
        if key and key not in objects:
            raise RunDamaged(
                f"block {row.block} holds on to object {key}, which the ledger does not count as "
                "live",
                hint=PUT_BACK,
            )
        values[name] = objects[key] if key else None
    return Entry(**values)


def objects_of(
    change: Change,
    condition: ColumnElement[bool],
    columns: Sequence[str],
    table: Table = tables.chain,
) -> set[str]:
    """The objects that some entries hold on to."""
    query = select(*(table.c[name] for name in columns))
    rows = change.connection.execute(query.where(table.c.run == change.run, condition))
    return {key for row in rows for key in row if key}


def set_state(change: Change, keys: set[str], state: str, **values: object) -> None:
    """Put objects into a state."""
    for some in batched(sorted(keys)):
        change.update(tables.objects, tables.objects.c.key.in_(some), {"state": state, **values})


def set_contents(change: Change, contents: Mapping[int, bytes]) -> None:
    """Know the records of blocks by what they were; nothing where that is not known."""
    change.delete(tables.contents, tables.contents.c.block.in_(list(contents)))
    rows = [{"block": block, "hashes": hashes} for block, hashes in contents.items() if hashes]
    change.insert(tables.contents, rows)


class ChainRows(RunRows):
    """The chain of one run, in rows."""

    def entries(self) -> list[Entry]:
        """The chain, from block 0 on."""
        with self._database.reading() as connection:
            objects = live_objects(connection, self._run)
            query = (
                select(tables.chain)
                .where(tables.chain.c.run == self._run)
                .order_by(tables.chain.c.block)
            )
            entries = [entry_of(row, objects) for row in connection.execute(query)]
        if not entries or [entry.block for entry in entries] != list(range(len(entries))):
            raise damaged(self._database.where, "it lacks blocks of the chain")
        return entries

    def pace(self) -> tuple[list[float], int | None, int]:
        """What an erasure costs depends on this alone.

        Returns:
            The seconds that each block 1..B took; the first block whose state is not exact; and the
            first one from which on every update is kept, and the state before it.
        """
        columns, is_its = tables.chain.c, tables.chain.c.run == self._run
        is_lacking = (columns.block > 0) & columns.update.is_(None)
        ends = select(
            func.min(columns.block).filter(columns.guarantee != "exact"),
            func.max(columns.block).filter(is_lacking),
        ).where(is_its)
        each = select(columns.seconds).where(is_its, columns.block > 0).order_by(columns.block)
        with self._database.reading() as connection:
            inexact, lacking = connection.execute(ends).one()
            is_behind = is_its & (columns.block >= (lacking or 0)) & columns.keyframe.is_not(None)
            base = connection.execute(select(func.min(columns.block)).where(is_behind)).scalar()
            # many rows that live at once would set off a search for garbage every now and then
            pieces = connection.execute(each).scalars().partitions(_ROWS_AT_ONCE)
            seconds = [one for some in pieces for one in some]
        return seconds, inexact, len(seconds) + 1 if base is None else base + 1

    def length(self) -> int:
        """The number of the last block of the chain."""
        query = select(func.max(tables.chain.c.block)).where(tables.chain.c.run == self._run)
        with self._database.reading() as connection:
            last = connection.execute(query).scalar()
        if last is None:
            raise damaged(self._database.where, "it lacks blocks of the chain")
        return int(last)

    def append(
        self, entries: Sequence[Entry], contents: Mapping[int, bytes] = MappingProxyType({})
    ) -> None:
        """Add checkpoints at the end of the chain; their objects become live with them.

        Args:
            entries: The checkpoints.
            contents: What the records of each block were; see `obliviate.recipe.contents`.
        """
        with self._changing(f"{blocks_in_words(entries)} trained") as change:
            insert_entries(change, tables.chain, entries)
            set_contents(change, contents)

    def contents(self, block: int) -> bytes:
        """What the records of a block were; nothing where that is not known."""
        columns = tables.contents.c
        query = select(columns.hashes).where(columns.run == self._run, columns.block == block)
        with self._database.reading() as connection:
            return connection.execute(query).scalar() or b""
