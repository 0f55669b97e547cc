"""Reading and writing the ledger. Every method is one transaction."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import create_engine, delete, event, exc, func, insert, select, true, update
from sqlalchemy.engine import URL

from obliviate.errors import NewerFormat, RunDamaged, RunLocked, RunMissing, StorageFull
from obliviate.ledger import tables
from obliviate.ledger.facts import Entry, ErasureFacts, RunFacts
from obliviate.vault.store import Stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from sqlalchemy import ColumnElement, Connection, Engine, Row, Table

_OBJECT_COLUMNS = ("update", "keyframe", "optimizer")
_ROWS_AT_ONCE = 10_000
_STITCHED = {
    "origin": "stitched",
    "guarantee": "approximate",
    "digest": None,
    "keyframe": None,
    "optimizer": None,
}
_NO_ROOM = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def subject_hash(subject: str, key: bytes) -> bytes:
    """The keyed hash by which the ledger knows a subject (HMAC-SHA256, 16 bytes)."""
    return hmac.digest(key, subject.encode(errors="surrogatepass"), hashlib.sha256)[:16]


class Ledger:
    """The facts of one run, in SQLite."""

    def __init__(self, path: Path) -> None:
        """Open the ledger of a run.

        Raises:
            RunMissing: There is none.
            RunDamaged: It is no ledger.
            NewerFormat: A newer version of Obliviate wrote it.
        """
        if not path.exists():
            raise RunMissing(
                f"there is no run in {path.parent}",
                hint="check the path, or make one with `obliviate fit PROJECT RUN`",
            )
        if path.stat().st_size == 0:
            raise _damaged(path, "it is empty")
        self.path = path
        self._engine = _engine(path, _PRAGMAS)
        with self._transaction() as connection:
            found = connection.execute(select(tables.runs.c.format)).scalar_one()
        if found > tables.FORMAT:
            raise NewerFormat(
                f"{path.parent} has format {found}; this version reads up to {tables.FORMAT}",
                hint="upgrade obliviate; nothing was changed",
            )

    @classmethod
    def create(
        cls,
        path: Path,
        run: RunFacts,
        first: Entry,
        subjects: Sequence[str] | None,
        excluded: NDArray[np.int64],
    ) -> Ledger:
        """Make the ledger of a new run; it is there in full or not at all.

        Args:
            path: Where.
            run: What the run is made of.
            first: The initial state, block 0.
            subjects: The subject of each record.
            excluded: Records that are left out from the start.
        """
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        engine = _engine(part, ())
        with _transaction(engine, part) as connection:
            tables.metadata.create_all(connection)
            _insert_run(connection, run)
            _insert_subjects(connection, () if subjects is None else subjects, run.subject_key)
            rows = [{"record": int(record), "erasure": None} for record in excluded]
            _insert_rows(connection, tables.erased, rows)
            _insert_entries(connection, tables.chain, [first])
        engine.dispose()
        part.rename(path)
        return cls(path)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _transaction(self) -> contextlib.AbstractContextManager[Connection]:
        return _transaction(self._engine, self.path)

    # The run

    def run(self) -> RunFacts:
        """What the run was made of."""
        with self._transaction() as connection:
            row = connection.execute(select(tables.runs)).one()
            samples = connection.execute(select(tables.samples.c.record, tables.samples.c.content))
            return RunFacts(
                records=row.records,
                blocks=row.blocks,
                smallest_batch=row.smallest_batch,
                fingerprint=row.fingerprint,
                environment=row.environment,
                subject_key=row.subject_key,
                samples={row.record: row.content for row in samples},
                project=row.project,
                made=row.made,
            )

    def add_samples(self, samples: Mapping[int, str]) -> None:
        """Know the dataset by some more records; see `RunFacts.samples`."""
        rows = [{"record": record, "content": content} for record, content in samples.items()]
        with self._transaction() as connection:
            _insert_rows(connection, tables.samples, rows)

    def has_subjects(self) -> bool:
        """Whether records were given subjects."""
        with self._transaction() as connection:
            return connection.execute(select(tables.subjects.c.id).limit(1)).first() is not None

    def has_same_subjects(self, subjects: Sequence[str]) -> bool:
        """Whether the records were given these very subjects."""
        columns = (tables.records.c.record, tables.subjects.c.hash)
        query = select(*columns).join(tables.subjects).order_by(tables.records.c.record)
        with self._transaction() as connection:
            key = connection.execute(select(tables.runs.c.subject_key)).scalar_one()
            known = [row.hash for row in connection.execute(query)]
        hashes = {subject: subject_hash(subject, key) for subject in set(subjects)}
        return known == [hashes[subject] for subject in subjects]

    def records_of(self, subject: bytes) -> list[int]:
        """The records of a subject, by its keyed hash; erased ones too."""
        query = (
            select(tables.records.c.record)
            .join(tables.subjects, tables.subjects.c.id == tables.records.c.subject)
            .where(tables.subjects.c.hash == subject)
        )
        with self._transaction() as connection:
            return list(connection.execute(query).scalars())

    def erased(self, running: int | None = None) -> NDArray[np.int64]:
        """The ids of all erased records, sorted; those of one running erasure too, if named."""
        committed = select(tables.erasures.c.id).where(tables.erasures.c.state == "committed")
        is_erased = tables.erased.c.erasure.is_(None) | tables.erased.c.erasure.in_(committed)
        if running is not None:
            is_erased |= tables.erased.c.erasure == running
        query = select(tables.erased.c.record).where(is_erased).order_by(tables.erased.c.record)
        with self._transaction() as connection:
            return np.array(list(connection.execute(query).scalars()), dtype=np.int64)

    def excluded(self) -> NDArray[np.int64]:
        """The records that were left out when the run was made, sorted."""
        query = select(tables.erased.c.record).where(tables.erased.c.erasure.is_(None))
        with self._transaction() as connection:
            return np.array(sorted(connection.execute(query).scalars()), dtype=np.int64)

    # The chain

    def entries(self) -> list[Entry]:
        """The chain, from block 0 on."""
        with self._transaction() as connection:
            objects = _objects(connection)
            rows = connection.execute(select(tables.chain).order_by(tables.chain.c.block))
            return [_entry(row, objects) for row in rows]

    def append(self, entry: Entry) -> None:
        """Add a checkpoint at the end of the chain; its objects become live with it."""
        with self._transaction() as connection:
            _insert_entries(connection, tables.chain, [entry])

    # Erasures

    def begin(
        self, kind: str, method: Mapping[str, object], records: NDArray[np.int64]
    ) -> ErasureFacts:
        """Write down what is to be erased, before anything is done."""
        with self._transaction() as connection:
            row = {
                "state": "running",
                "kind": kind,
                "method": dict(method),
                "started": now(),
                "outcome": {},
            }
            result = connection.execute(insert(tables.erasures), row)
            number = int((result.inserted_primary_key or (0,))[0])
            rows = [{"record": int(record), "erasure": number} for record in records]
            _insert_rows(connection, tables.erased, rows)
        return self.erasure(number)

    def erasure(self, number: int) -> ErasureFacts:
        """One erasure."""
        return next(facts for facts in self.erasures() if facts.id == number)

    def erasures(self) -> list[ErasureFacts]:
        """All erasures, in the order in which they were begun."""
        counts = (
            select(tables.erased.c.erasure, func.count().label("records"))
            .group_by(tables.erased.c.erasure)
            .subquery()
        )
        query = (
            select(tables.erasures, func.coalesce(counts.c.records, 0).label("records"))
            .outerjoin(counts, counts.c.erasure == tables.erasures.c.id)
            .order_by(tables.erasures.c.id)
        )
        with self._transaction() as connection:
            rows = connection.execute(query).mappings()
            return [ErasureFacts(**row) for row in rows]

    def running(self) -> ErasureFacts | None:
        """The erasure that was begun and is neither carried out nor given up."""
        return next((facts for facts in self.erasures() if facts.state == "running"), None)

    def records_of_erasure(self, number: int) -> NDArray[np.int64]:
        """The records that an erasure erases, sorted."""
        query = select(tables.erased.c.record).where(tables.erased.c.erasure == number)
        with self._transaction() as connection:
            return np.array(sorted(connection.execute(query).scalars()), dtype=np.int64)

    def stage(self, entry: Entry) -> None:
        """Keep a replayed block of a running erasure, so that a crash does not lose it."""
        with self._transaction() as connection:
            _insert_entries(connection, tables.staged, [entry])

    def staged(self, erasure: int) -> dict[int, Entry]:
        """The blocks that a running erasure has replayed so far."""
        query = select(tables.staged).where(tables.staged.c.erasure == erasure)
        with self._transaction() as connection:
            objects = _objects(connection)
            return {row.block: _entry(row, objects) for row in connection.execute(query)}

    def commit(
        self,
        erasure: int,
        *,
        replaced: Sequence[Entry],
        stitched: Sequence[range],
        outcome: Mapping[str, object],
    ) -> None:
        """Carry out an erasure, all or nothing: rewrite the chain and condemn the old objects.

        Args:
            erasure: Its number.
            replaced: New entries.
            stitched: Blocks whose state is from now on the stitched one: they keep their update and
                lose keyframe, optimizer state and digest, unless they are among the replaced too.
            outcome: What came of it.
        """
        chain, blocks = tables.chain, [entry.block for entry in replaced]
        with self._transaction() as connection:
            for span in stitched:
                is_stitched = chain.c.block.between(span.start, span.stop - 1)
                _condemn(connection, _held(connection, is_stitched, ("keyframe", "optimizer")))
                connection.execute(
                    update(chain).where(is_stitched).values(_STITCHED | {"erasure": erasure})
                )
            for some in _batched(blocks):
                is_replaced = chain.c.block.in_(some)
                _condemn(connection, _held(connection, is_replaced, _OBJECT_COLUMNS))
                connection.execute(delete(chain).where(is_replaced))
            connection.execute(delete(tables.staged).where(tables.staged.c.erasure == erasure))
            _insert_entries(connection, chain, replaced)
            _revive(connection, {stored.key for entry in replaced for stored in entry.objects})
            records = select(tables.erased.c.record).where(tables.erased.c.erasure == erasure)
            connection.execute(delete(tables.samples).where(tables.samples.c.record.in_(records)))
            _finish(connection, erasure, state="committed", outcome=outcome)

    def give_up(self, erasure: int, reason: str) -> None:
        """Take a running erasure back: what it staged is condemned, its records are not erased."""
        with self._transaction() as connection:
            is_staged = tables.staged.c.erasure == erasure
            keys = _held(connection, is_staged, _OBJECT_COLUMNS, table=tables.staged)
            _condemn(connection, keys - _held(connection, true(), _OBJECT_COLUMNS))
            connection.execute(delete(tables.staged).where(tables.staged.c.erasure == erasure))
            connection.execute(delete(tables.erased).where(tables.erased.c.erasure == erasure))
            _finish(connection, erasure, state="failed", outcome={"reason": reason})

    # Objects

    def keys(self, *states: str) -> set[str]:
        """The keys of the vault's objects that are in one of the states."""
        query = select(tables.objects.c.key).where(tables.objects.c.state.in_(states))
        with self._transaction() as connection:
            return set(connection.execute(query).scalars())

    def mark_destroyed(self, keys: Iterable[str]) -> None:
        """Write down that objects are gone."""
        with self._transaction() as connection:
            for some in _batched(sorted(keys)):
                connection.execute(
                    update(tables.objects)
                    .where(tables.objects.c.key.in_(some))
                    .values(state="destroyed", destroyed=now())
                )


def _engine(path: Path, pragmas: Sequence[str]) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are ours, those that only read too
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


@contextlib.contextmanager
def _transaction(engine: Engine, path: Path) -> Iterator[Connection]:
    try:
        with engine.begin() as connection:
            yield connection
    except exc.DatabaseError as error:
        reason, name = str(error.orig), str(getattr(error.orig, "sqlite_errorname", ""))
        if name.startswith(_NO_ROOM):
            raise StorageFull(
                f"the ledger {path} cannot be written to ({reason})",
                hint="make room or allow writing there, then call again; nothing was lost",
            ) from error
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise RunLocked(
                f"another process keeps the ledger {path} ({reason})", hint="try again in a while"
            ) from error
        raise _damaged(path, reason) from error
    except exc.NoResultFound as error:
        raise _damaged(path, "it lacks a row that belongs there") from error


def _damaged(path: Path, reason: str) -> RunDamaged:
    return RunDamaged(
        f"{path} cannot be read as a ledger ({reason})",
        hint="restore the run folder from a copy, or make the run again in another folder",
    )


def _batched(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _ROWS_AT_ONCE):
        yield items[start : start + _ROWS_AT_ONCE]


def _insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    for some in _batched(rows):
        connection.execute(insert(table), list(some))


def _insert_run(connection: Connection, run: RunFacts) -> None:
    row = dataclasses.asdict(run)
    samples = row.pop("samples")
    connection.execute(insert(tables.runs), row | {"format": tables.FORMAT})
    rows = [{"record": record, "content": content} for record, content in samples.items()]
    _insert_rows(connection, tables.samples, rows)


def _insert_subjects(connection: Connection, subjects: Sequence[str], key: bytes) -> None:
    numbers = {subject: number for number, subject in enumerate(dict.fromkeys(subjects), start=1)}
    hashes = [{"id": number, "hash": subject_hash(name, key)} for name, number in numbers.items()]
    _insert_rows(connection, tables.subjects, hashes)
    rows = [{"record": at, "subject": numbers[name]} for at, name in enumerate(subjects)]
    _insert_rows(connection, tables.records, rows)


def _insert_entries(
    connection: Connection,
    table: Table,
    entries: Sequence[Entry],
) -> None:
    """Insert entries, and the objects among theirs that the ledger does not know yet."""
    stored = [stored for entry in entries for stored in entry.objects]
    known: set[str] = set()
    for some in _batched([each.key for each in stored]):
        query = select(tables.objects.c.key).where(tables.objects.c.key.in_(some))
        known |= set(connection.execute(query).scalars())
    stored = [each for each in stored if each.key not in known]
    made = {"state": "live", "made": now()}
    _insert_rows(connection, tables.objects, [dataclasses.asdict(each) | made for each in stored])
    _insert_rows(connection, table, [_row(entry) for entry in entries])


def _row(entry: Entry) -> dict[str, object]:
    row: dict[str, object] = {
        name: getattr(entry, name)
        for name in ("block", "origin", "guarantee", "digest", "loss", "seconds", "erasure")
    }
    for name in _OBJECT_COLUMNS:
        stored = getattr(entry, name)
        row[name] = stored.key if stored else None
    return row


def _objects(connection: Connection) -> dict[str, Stored]:
    columns = tables.objects.c
    query = select(columns.key, columns.size_bytes, columns.sha256).where(columns.state == "live")
    return {
        key: Stored(key=key, size_bytes=size_bytes, sha256=sha256)
        for key, size_bytes, sha256 in connection.execute(query)
    }


def _entry(row: Row[Any], objects: Mapping[str, Stored]) -> Entry:
    values = dict(row._mapping)  # SQLAlchemy's public name for it
    for name in _OBJECT_COLUMNS:
        values[name] = objects[values[name]] if values[name] else None
    return Entry(**values)


def _held(
    connection: Connection,
    condition: ColumnElement[bool],
    columns: Sequence[str],
    table: Table = tables.chain,
) -> set[str]:
    rows = connection.execute(select(*(table.c[name] for name in columns)).where(condition))
    return {key for row in rows for key in row if key}


def _set_state(connection: Connection, keys: set[str], state: str) -> None:
    for some in _batched(sorted(keys)):
        connection.execute(
            update(tables.objects).where(tables.objects.c.key.in_(some)).values(state=state)
        )


def _condemn(connection: Connection, keys: set[str]) -> None:
    _set_state(connection, keys, "condemned")


def _revive(connection: Connection, keys: set[str]) -> None:
    """Spare condemned objects that a new entry goes on holding, such as a stitched update."""
    _set_state(connection, keys, "live")


def _finish(
    connection: Connection, number: int, *, state: str, outcome: Mapping[str, object]
) -> None:
    connection.execute(
        update(tables.erasures)
        .where(tables.erasures.c.id == number)
        .values(state=state, outcome=dict(outcome), finished=now())
    )
