"""Records: which there are, in which block each is, and whom it belongs to.

Subjects are kept as keyed hashes. There may be millions of records, so they are written in bulk,
and everything that is asked of one person is answered from an index.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import func, select

from obliviate.ledger import tables
from obliviate.ledger.chain_rows import columns_of
from obliviate.ledger.change import batched
from obliviate.ledger.database import RunRows, damaged
from obliviate.ledger.facts import ERASED, OPEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from sqlalchemy import Column, ColumnElement, Connection, Table

    from obliviate.ledger.change import Change
    from obliviate.recipe.subjects import Subjects

_IDS_AT_ONCE = 10_000
_DENSE = 4  # of so many neighbours one has to be asked for, then they are read in one stretch


def subject_hash(subject: str, key: bytes) -> bytes:
    """The keyed hash by which the ledger knows a subject (HMAC-SHA256, 16 bytes)."""
    return hmac.digest(key, subject.encode(errors="surrogatepass"), hashlib.sha256)[:16]


def _near(column: Column[int], some: Sequence[int]) -> ColumnElement[bool]:
    """That a column holds one of some sorted numbers; or, where they lie dense, one between."""
    is_dense = some[-1] - some[0] < _DENSE * len(some)
    return column.between(some[0], some[-1]) if is_dense else column.in_(some)


class Records(RunRows):
    """The records of one run, and the people they belong to."""

    def has_subjects(self, part: int | None = None) -> bool:
        """Whether records were given subjects; those of one part, if named."""
        columns = tables.parts.c
        query = select(columns.part).where(columns.run == self._run, columns.has_subjects == 1)
        if part is not None:
            query = query.where(columns.part == part)
        with self._database.reading() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def has_same_subjects(self, part: int, subjects: Subjects, key: bytes) -> bool:
        """Whether the records of a part were given these very subjects; erased ones are anybody's.

        Args:
            part: Its number.
            subjects: Those of its records.
            key: The run's subject key.
        """
        parts, people, erased = tables.parts.c, tables.subjects.c, tables.erased.c
        sizes = select(parts.part, parts.records, parts.has_subjects).where(parts.run == self._run)
        known = select(people.hash, people.id).where(people.run == self._run)
        left_out = select(erased.record).where(erased.run == self._run)
        with self._database.reading() as connection:
            rows = connection.execute(sizes.order_by(parts.part)).all()
            first = sum(row.records for row in rows[:part])
            if not rows[part].has_subjects or rows[part].records != len(subjects):
                return False
            numbers = dict(map(tuple, connection.execute(known)))
            whose = {name: numbers.get(subject_hash(name, key), -1) for name in subjects.names()}
            anybodys = set(connection.execute(left_out).scalars())
            several: dict[int, set[int | None]] = {}
            for record, other in self._people_of(connection, tables.further, first, len(subjects)):
                several.setdefault(record, set()).add(other)
            return all(
                _numbers(subjects, record - first, whose) == {person, *several.get(record, ())}
                for record, person in self._people_of(
                    connection, tables.records, first, len(subjects)
                )
                if record not in anybodys
            )

    def _people_of(
        self, connection: Connection, table: Table, first: int, records: int
    ) -> Iterable[Any]:
        """Record and person of each row of some records."""
        columns = table.c
        query = select(columns.record, columns.subject).where(
            columns.run == self._run, columns.record.between(first, first + records - 1)
        )
        return connection.execute(query.execution_options(yield_per=_IDS_AT_ONCE))

    def of_subjects(self, subjects: Iterable[bytes]) -> tuple[NDArray[np.int64], set[bytes]]:
        """The records of some subjects, shared and erased ones too; and subjects that have none.

        Args:
            subjects: Their keyed hashes; asked for some thousand at a time.

        Returns:
            Record ids, sorted, each once; and the hashes of those who have no records.
        """
        people, asked = tables.subjects.c, list(dict.fromkeys(subjects))
        numbers: dict[bytes, int] = {}
        pieces = [columns_of((), 2)]
        query = select(people.hash, people.id).where(people.run == self._run)
        with self._database.reading() as connection:
            for some in batched(asked):
                rows = connection.execute(query.where(people.hash.in_(some))).all()
                numbers.update(map(tuple, rows))
            ids = sorted(numbers.values())
            for some in batched(ids):
                for table in (tables.records, tables.further):
                    theirs = select(table.c.subject, table.c.record)
                    theirs = theirs.where(table.c.run == self._run, _near(table.c.subject, some))
                    pieces.append(columns_of(connection.execute(theirs).all(), 2))
        subject, record = map(np.concatenate, zip(*pieces, strict=True))
        has_records = set(subject.tolist())
        missing = {each for each in asked if numbers.get(each) not in has_records}
        return np.unique(record[np.isin(subject, ids)]), missing

    def check_index(self, subjects: Iterable[bytes], records: NDArray[np.int64]) -> None:
        """See that the tables say the same of some people as the indexes by which they were found.

        All rows are read for it. On a server that is the server's task.

        Raises:
            RunDamaged: They do not: an index, or a table, is damaged.
        """
        if not self._database.is_file:
            return
        there: list[int] = []
        with self._database.reading() as connection:
            for some in batched(list(dict.fromkeys(subjects))):
                numbers = self._unindexed(connection, "id", tables.subjects, "hash", some)
                for table in (tables.records, tables.further):
                    there += self._unindexed(connection, "record", table, "subject", numbers)
        if sorted(set(there)) != records.tolist():
            raise damaged(self._database.where, "an index does not say what its table says")

    def _unindexed(
        self, connection: Connection, column: str, table: Table, by: str, values: Sequence[Any]
    ) -> list[int]:
        """A column of some rows of an SQLite file, found in the table itself."""
        marks = ", ".join("?" for _ in values)
        # SQLite looks a sum up in no index, and only the table itself has this order
        query = (
            f"SELECT {column} FROM {table.name} WHERE run = ? AND +{by} IN ({marks}) "  # noqa: S608
            f"ORDER BY run, {column}"
        )
        return list(connection.exec_driver_sql(query, (self._run, *values)).scalars())

    def groups_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The group that each record is dealt with; see `recipe.deal`. Shape (n,) -> (n,)."""
        records, asked = tables.records.c, np.unique(ids)
        query = select(records.record, records.kin).where(records.run == self._run)
        query = query.order_by(records.record)
        pieces = [columns_of((), 2)]
        with self._database.reading() as connection:
            for some in batched(asked.tolist()):
                rows = connection.execute(query.where(_near(records.record, some))).all()
                pieces.append(columns_of(rows, 2))
        known, groups = map(np.concatenate, zip(*pieces, strict=True))
        if not np.isin(asked, known).all():
            raise damaged(self._database.where, "it lacks records that belong there")
        theirs: NDArray[np.int64] = groups[np.searchsorted(known, ids)]
        return theirs

    def groups(self) -> NDArray[np.int64]:
        """The group of every record. Shape (records,)."""
        records = tables.records.c
        query = select(records.kin).where(records.run == self._run).order_by(records.record)
        with self._database.reading() as connection:
            rows = connection.execute(query.execution_options(yield_per=_IDS_AT_ONCE))
            return np.fromiter(rows.scalars(), dtype=np.int64)

    def contents_of(self, ids: NDArray[np.int64]) -> dict[int, bytes]:
        """What tombstones know some records by, where they are kept; by record."""
        records = tables.records.c
        contents: dict[int, bytes] = {}
        with self._database.reading() as connection:
            for start in range(0, len(ids), _IDS_AT_ONCE):
                some = ids[start : start + _IDS_AT_ONCE].tolist()
                query = select(records.record, records.content).where(
                    records.run == self._run,
                    records.record.in_(some),
                    records.content.is_not(None),
                )
                contents |= {row.record: row.content for row in connection.execute(query)}
        return contents

    def waiting(self) -> set[bytes]:
        """The keyed hashes of those who wait to be forgotten; see `waiting_people`."""
        people = tables.subjects.c
        with self._database.reading() as connection:
            numbers = list(waiting_people(connection, self._run))
            hashes: set[bytes] = set()
            for some in batched(numbers):
                query = select(people.hash).where(people.run == self._run, people.id.in_(some))
                hashes |= set(connection.execute(query).scalars())
            return hashes

    def leave_out(self, ids: NDArray[np.int64], contents: Mapping[int, bytes]) -> None:
        """Leave out records that were not trained on yet, and know others by what they are now.

        Args:
            ids: The records to leave out; those that are left out already stay so.
            contents: The tombstones that records would have, where they are kept.
        """
        with self._changing("records left out") as change:
            fresh = np.setdiff1d(ids, self._records_in(change.connection, tables.erased.c.run > 0))
            change.insert(tables.erased, [{"record": record} for record in fresh.tolist()])
            write_contents(change, contents)

    def erased(self, running: int | None = None) -> NDArray[np.int64]:
        """The ids of all erased records, sorted; those of one running erasure too, if named."""
        is_erased = self._is_erased()
        if running is not None:
            is_erased |= tables.erased.c.erasure == running
        return self._records(is_erased)

    def _is_erased(self) -> ColumnElement[bool]:
        erased, erasures = tables.erased.c, tables.erasures.c
        committed = select(erasures.id).where(erasures.run == self._run, erasures.state.in_(ERASED))
        return erased.erasure.is_(None) | erased.erasure.in_(committed)

    def erased_among(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of some records are erased, sorted."""
        pieces = [np.array([], dtype=np.int64)]
        for some in batched(np.unique(ids).tolist()):
            is_asked = tables.erased.c.record.in_(some)
            pieces.append(self._records(self._is_erased() & is_asked))
        return np.concatenate(pieces)

    def erased_count(self) -> int:
        """How many records are erased."""
        erased = tables.erased.c
        query = select(func.count()).where(erased.run == self._run, self._is_erased())
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def excluded(self) -> NDArray[np.int64]:
        """The records that were left out before training, sorted."""
        return self._records(tables.erased.c.erasure.is_(None))

    def _records(self, condition: ColumnElement[bool]) -> NDArray[np.int64]:
        with self._database.reading() as connection:
            return self._records_in(connection, condition)

    def _records_in(
        self, connection: Connection, condition: ColumnElement[bool]
    ) -> NDArray[np.int64]:
        erased = tables.erased.c
        query = select(erased.record).where(erased.run == self._run, condition)
        records = connection.execute(query.order_by(erased.record)).scalars()
        return np.array(list(records), dtype=np.int64)


_OWNED = (tables.records, tables.further)
"""Where it is kept whose a record is."""


def waiting_people(connection: Connection, run: int) -> dict[int, int]:
    """The subjects who wait to be forgotten, by number, and a request of each.

    They are those of whom every record that is not erased is named by some request that is open,
    whether the request named the person or the records.
    """
    requests, named = tables.requests.c, tables.requested.c
    is_open = (requests.run == named.run) & (requests.id == named.request)
    request_of: dict[int, int] = {}
    asked: set[int] = set()
    for table in _OWNED:
        query = (
            select(table.c.subject, table.c.record, named.request)
            .join(tables.requested, (named.run == table.c.run) & (named.record == table.c.record))
            .join(tables.requests, is_open)
            .where(table.c.run == run, table.c.subject.is_not(None), requests.state.in_(OPEN))
        )
        for subject, record, request in connection.execute(query):
            asked.add(record)
            request_of[subject] = max(request, request_of.get(subject, 0))
    for subject, record in _left_of(connection, run, list(request_of), 0):
        if record not in asked:
            request_of.pop(subject, None)
    return request_of


def _left_of(
    connection: Connection, run: int, subjects: Sequence[int], first_record: int
) -> Iterator[tuple[int, int]]:
    """The records, from one on, of some subjects that are not erased, with the subject."""
    erased = select(tables.erased.c.record).where(tables.erased.c.run == run)
    for table in _OWNED:
        for some in batched(subjects):
            query = select(table.c.subject, table.c.record).where(
                table.c.run == run,
                table.c.subject.in_(some),
                table.c.record >= first_record,
                table.c.record.not_in(erased),
            )
            for row in connection.execute(query):
                yield row.subject, row.record


def add_to_requests(change: Change, request_of: Mapping[int, int], first_record: int) -> None:
    """Add new records of people who wait to be forgotten to what they asked for.

    Args:
        change: Where.
        request_of: Subjects, and a request of each.
        first_record: The id of the first new record.
    """
    left = _left_of(change.connection, change.run, list(request_of), first_record)
    pairs = sorted({(request_of[subject], record) for subject, record in left})
    change.insert(
        tables.requested, [{"request": request, "record": record} for request, record in pairs]
    )


def write_contents(change: Change, contents: Mapping[int, bytes]) -> None:
    """Know records that were not trained on yet by what they are now."""
    for record, content in contents.items():
        is_it = tables.records.c.record == record
        change.update(tables.records, is_it, {"content": content})


def _numbers(subjects: Subjects, place: int, numbers: Mapping[str, int]) -> set[int | None]:
    """The numbers of the people of a record."""
    given = subjects.first[place]
    others = (numbers[name] for name in subjects.further.get(place, ()))
    return {None if given is None else numbers[given], *others}
