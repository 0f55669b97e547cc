"""Newcomers: records that come to a run together, written in bulk: there may be millions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import or_, select

from obliviate.clock import stamp
from obliviate.ledger import tables
from obliviate.ledger.change import batched
from obliviate.ledger.records import subject_hash
from obliviate.ledger.row_groups import SPAN_ROWS, Salted, grouped_rows, span_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from sqlalchemy import Table

    from obliviate.ledger.change import Change
    from obliviate.ledger.facts import RunFacts
    from obliviate.recipe.parts import Part
    from obliviate.recipe.subjects import Subjects


@dataclass(frozen=True, kw_only=True)
class Newcomers:
    """Records that come to a run together.

    Attributes:
        groups: The group that each is dealt with; see `recipe.deal`. Shape (n,).
        subjects: The people of each; None where nobody is named.
        contents: The tombstone that each would have; None where none are kept.
        excluded: The ids of those that are left out. Sorted.
    """

    groups: NDArray[np.int64]
    excluded: NDArray[np.int64]
    subjects: Subjects | None = None
    contents: Sequence[bytes] | None = None


def insert_part(change: Change, run: RunFacts, number: int, part: Part, new: Newcomers) -> None:
    """Insert records that a run is made with, or grows by."""
    key, subjects = run.subject_key, new.subjects
    row = {
        "part": number,
        "records": part.records,
        "blocks": part.blocks,
        "epochs": len(part.deals),
        "keep": part.keep,
        "is_over_all": int(part.is_over_all),
        "has_subjects": int(key is not None and subjects is not None),
        "made": stamp(),
    }
    change.insert(tables.parts, [row])
    deals = [
        {"part": number, "epoch": epoch, "seed": str(deal.seed)}
        | {"cuts": deal.cuts, "counts": deal.counts}
        for epoch, deal in enumerate((*part.deals, *part.given_up))
    ]
    change.insert(tables.deals, deals)
    _insert_people(change, new, key, sum(each.records for each in run.parts[:number]))
    change.insert(tables.erased, [{"record": record} for record in new.excluded.tolist()])


def _insert_people(change: Change, new: Newcomers, key: bytes | None, first_record: int) -> None:
    """Insert records: where each is, and whom it belongs to; nothing of those that are left out.

    Args:
        change: Where.
        new: The records.
        key: The run's subject key.
        first_record: The id of the first record.
    """
    left_out = set((new.excluded - first_record).tolist())
    people: Iterable[int | None] = repeat(None)
    if new.subjects is not None and key is not None:
        subjects = new.subjects.without(left_out) if left_out else new.subjects
        numbers = _numbered(change, subjects.names(), key)
        people = (None if name is None else numbers[name] for name in subjects.first)
        _insert_further(change, subjects, numbers, first_record)
    contents: Iterable[bytes | None] = new.contents or repeat(None)
    if left_out:
        contents = (None if at in left_out else each for at, each in enumerate(contents))
    rows = (
        (change.run, record, group, person, content)
        for record, (group, person, content) in enumerate(
            zip(new.groups.tolist(), people, contents, strict=False), start=first_record
        )
    )
    _bulk_insert(change, tables.records, rows, first_record)


def unlink(change: Change, records: Iterable[int]) -> None:
    """Let nobody be found by records any more: whom they belong to, and what they were."""
    both, people = (tables.records, tables.further), tables.subjects
    for some in batched(list(records)):
        persons: set[int] = set()
        for table in both:
            is_it = (table.c.run == change.run) & table.c.record.in_(some)
            query = select(table.c.subject).where(is_it, table.c.subject.is_not(None)).distinct()
            persons.update(change.connection.execute(query).scalars())
        change.update(
            tables.records, tables.records.c.record.in_(some), {"subject": None, "content": None}
        )
        change.delete(tables.further, tables.further.c.record.in_(some))
        has_left = [
            select(table.c.record)
            .where(table.c.run == change.run, table.c.subject == people.c.id)
            .exists()
            for table in both
        ]
        for few in batched(sorted(persons)):
            change.delete(people, people.c.id.in_(few) & ~or_(*has_left))


def _insert_further(
    change: Change, subjects: Subjects, numbers: Mapping[str, int], first_record: int
) -> None:
    """Insert the second and further people of records that belong to several."""
    rows = [
        {"record": first_record + at, "subject": numbers[name]}
        for at, others in subjects.further.items()
        for name in others
    ]
    change.insert(tables.further, rows)


def _numbered(change: Change, subjects: Iterable[str], key: bytes) -> dict[str, int]:
    """The numbers of subjects in the ledger; those that it does not know yet are inserted."""
    hashes = {subject: subject_hash(subject, key) for subject in subjects}
    columns = tables.subjects.c
    query = select(columns.hash, columns.id).where(columns.run == change.run)
    known = dict(change.connection.execute(query).all())
    first = last = max(known.values(), default=0)
    fresh = []
    for digest in hashes.values():
        if digest not in known:
            last += 1
            known[digest] = last
            fresh.append((change.run, last, digest))
    if fresh:
        _bulk_insert(change, tables.subjects, iter(fresh), first + 1)
    return {subject: known[digest] for subject, digest in hashes.items()}


def _bulk_insert(change: Change, table: Table, rows: Iterator[tuple[Any, ...]], first: int) -> None:
    """Insert very many rows, by the fastest way that the database has, and hash them on the way.

    Args:
        change: Where.
        table: Which.
        rows: In the order of their numbers.
        first: The number of the first one.
    """
    connection, spans = change.connection, dict[str, Salted]()
    for name, there in grouped_rows(connection, table, change.run, {first // SPAN_ROWS}):
        spans[name] = Salted()
        spans[name].add(there)
    rows = _hashing(rows, first, spans)
    names = ", ".join(f'"{column.name}"' for column in table.c)
    cursor = connection.connection.cursor()
    try:
        if connection.dialect.name == "postgresql":
            with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        else:
            marks = ", ".join("?" for _ in table.c)
            statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608
            cursor.executemany(statement, cast("Any", rows))
    finally:
        cursor.close()
    change.wrote(table, spans)


def _hashing(
    rows: Iterator[tuple[Any, ...]], first: int, spans: dict[str, Salted]
) -> Iterator[tuple[Any, ...]]:
    """The rows, hashed span by span."""
    end = (first // SPAN_ROWS + 1) * SPAN_ROWS
    while some := list(islice(rows, end - first)):
        spans.setdefault(span_of(first), Salted()).add(some)
        first, end = end, end + SPAN_ROWS
        yield from some
