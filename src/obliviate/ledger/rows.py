"""Between facts and rows."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from obliviate.ledger import tables
from obliviate.ledger.facts import Entry
from obliviate.vault.store import Stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Table

    from obliviate.ledger.facts import RunFacts

OBJECT_COLUMNS = ("update", "keyframe", "optimizer")
ROWS_AT_ONCE = 10_000


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def subject_hash(subject: str, key: bytes) -> bytes:
    """The keyed hash by which the ledger knows a subject (HMAC-SHA256, 16 bytes)."""
    return hmac.digest(key, subject.encode(errors="surrogatepass"), hashlib.sha256)[:16]


def batched(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Some items at a time."""
    for start in range(0, len(items), ROWS_AT_ONCE):
        yield items[start : start + ROWS_AT_ONCE]


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert many rows."""
    for some in batched(rows):
        connection.execute(insert(table), list(some))


def insert_run(connection: Connection, run: RunFacts) -> None:
    """Insert what a run was made of."""
    row = dataclasses.asdict(run)
    samples = row.pop("samples")
    connection.execute(insert(tables.runs), row | {"format": tables.FORMAT})
    rows = [{"record": record, "content": content} for record, content in samples.items()]
    insert_rows(connection, tables.samples, rows)


def insert_subjects(connection: Connection, subjects: Sequence[str], key: bytes) -> None:
    """Insert whom each record belongs to."""
    numbers = {subject: number for number, subject in enumerate(dict.fromkeys(subjects), start=1)}
    hashes = [{"id": number, "hash": subject_hash(name, key)} for name, number in numbers.items()]
    insert_rows(connection, tables.subjects, hashes)
    rows = [{"record": at, "subject": numbers[name]} for at, name in enumerate(subjects)]
    insert_rows(connection, tables.records, rows)


def insert_entries(
    connection: Connection,
    table: Table,
    entries: Sequence[Entry],
) -> None:
    """Insert entries, and the objects among theirs that the ledger does not know yet."""
    stored = [stored for entry in entries for stored in entry.objects]
    known: set[str] = set()
    for some in batched([each.key for each in stored]):
        query = select(tables.objects.c.key).where(tables.objects.c.key.in_(some))
        known |= set(connection.execute(query).scalars())
    stored = [each for each in stored if each.key not in known]
    made = {"state": "live", "made": now()}
    insert_rows(connection, tables.objects, [dataclasses.asdict(each) | made for each in stored])
    insert_rows(connection, table, [row_of(entry) for entry in entries])


def row_of(entry: Entry) -> dict[str, object]:
    """The row of an entry."""
    row: dict[str, object] = {
        name: getattr(entry, name)
        for name in ("block", "origin", "guarantee", "digest", "loss", "seconds", "erasure")
    }
    for name in OBJECT_COLUMNS:
        stored = getattr(entry, name)
        row[name] = stored.key if stored else None
    return row


def live_objects(connection: Connection) -> dict[str, Stored]:
    """All live objects, by key."""
    columns = tables.objects.c
    query = select(columns.key, columns.size_bytes, columns.sha256).where(columns.state == "live")
    return {
        key: Stored(key=key, size_bytes=size_bytes, sha256=sha256)
        for key, size_bytes, sha256 in connection.execute(query)
    }


def entry_of(row: Row[Any], objects: Mapping[str, Stored]) -> Entry:
    """The entry of a row."""
    values = dict(row._mapping)  # SQLAlchemy's public name for it
    for name in OBJECT_COLUMNS:
        values[name] = objects[values[name]] if values[name] else None
    return Entry(**values)


def held(
    connection: Connection,
    condition: ColumnElement[bool],
    columns: Sequence[str],
    table: Table = tables.chain,
) -> set[str]:
    """The objects that some entries hold on to."""
    rows = connection.execute(select(*(table.c[name] for name in columns)).where(condition))
    return {key for row in rows for key in row if key}


def set_state(connection: Connection, keys: set[str], state: str) -> None:
    """Put objects into a state."""
    for some in batched(sorted(keys)):
        connection.execute(
            update(tables.objects).where(tables.objects.c.key.in_(some)).values(state=state)
        )


def condemn(connection: Connection, keys: set[str]) -> None:
    """Mark objects as to be destroyed."""
    set_state(connection, keys, "condemned")


def revive(connection: Connection, keys: set[str]) -> None:
    """Spare condemned objects that a new entry goes on holding, such as a stitched update."""
    set_state(connection, keys, "live")


def finish(
    connection: Connection, number: int, *, state: str, outcome: Mapping[str, object]
) -> None:
    """Close an erasure."""
    connection.execute(
        update(tables.erasures)
        .where(tables.erasures.c.id == number)
        .values(state=state, outcome=dict(outcome), finished=now())
    )
