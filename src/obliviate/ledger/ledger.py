"""Reading and writing the ledger. Every method is one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import delete, func, insert, select, true, update

from obliviate.errors import NewerFormat, RunMissing
from obliviate.ledger import tables
from obliviate.ledger.database import PRAGMAS, damaged, made_engine, transaction
from obliviate.ledger.facts import STITCHED, Entry, ErasureFacts, RunFacts
from obliviate.ledger.rows import (
    OBJECT_COLUMNS,
    batched,
    condemn,
    entry_of,
    finish,
    held,
    insert_entries,
    insert_rows,
    insert_run,
    insert_subjects,
    live_objects,
    now,
    revive,
    subject_hash,
)

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from sqlalchemy import Connection


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
            raise damaged(path, "it is empty")
        self.path = path
        self._engine = made_engine(path, PRAGMAS)
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
        engine = made_engine(part, ())
        with transaction(engine, part) as connection:
            tables.metadata.create_all(connection)
            insert_run(connection, run)
            insert_subjects(connection, () if subjects is None else subjects, run.subject_key)
            rows = [{"record": int(record), "erasure": None} for record in excluded]
            insert_rows(connection, tables.erased, rows)
            insert_entries(connection, tables.chain, [first])
        engine.dispose()
        part.rename(path)
        return cls(path)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _transaction(self) -> contextlib.AbstractContextManager[Connection]:
        return transaction(self._engine, self.path)

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
            insert_rows(connection, tables.samples, rows)

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
            objects = live_objects(connection)
            rows = connection.execute(select(tables.chain).order_by(tables.chain.c.block))
            return [entry_of(row, objects) for row in rows]

    def length(self) -> int:
        """The number of the last block of the chain."""
        with self._transaction() as connection:
            return int(connection.execute(select(func.max(tables.chain.c.block))).scalar_one())

    def append(self, entry: Entry) -> None:
        """Add a checkpoint at the end of the chain; its objects become live with it."""
        with self._transaction() as connection:
            insert_entries(connection, tables.chain, [entry])

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
            insert_rows(connection, tables.erased, rows)
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
            insert_entries(connection, tables.staged, [entry])

    def staged(self, erasure: int) -> dict[int, Entry]:
        """The blocks that a running erasure has replayed so far."""
        query = select(tables.staged).where(tables.staged.c.erasure == erasure)
        with self._transaction() as connection:
            objects = live_objects(connection)
            return {row.block: entry_of(row, objects) for row in connection.execute(query)}

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
                condemn(connection, held(connection, is_stitched, ("keyframe", "optimizer")))
                connection.execute(
                    update(chain).where(is_stitched).values({**STITCHED, "erasure": erasure})
                )
            for some in batched(blocks):
                is_replaced = chain.c.block.in_(some)
                condemn(connection, held(connection, is_replaced, OBJECT_COLUMNS))
                connection.execute(delete(chain).where(is_replaced))
            connection.execute(delete(tables.staged).where(tables.staged.c.erasure == erasure))
            insert_entries(connection, chain, replaced)
            revive(connection, {stored.key for entry in replaced for stored in entry.objects})
            records = select(tables.erased.c.record).where(tables.erased.c.erasure == erasure)
            connection.execute(delete(tables.samples).where(tables.samples.c.record.in_(records)))
            finish(connection, erasure, state="committed", outcome=outcome)

    def give_up(self, erasure: int, reason: str) -> None:
        """Take a running erasure back: what it staged is condemned, its records are not erased."""
        with self._transaction() as connection:
            is_staged = tables.staged.c.erasure == erasure
            keys = held(connection, is_staged, OBJECT_COLUMNS, table=tables.staged)
            condemn(connection, keys - held(connection, true(), OBJECT_COLUMNS))
            connection.execute(delete(tables.staged).where(tables.staged.c.erasure == erasure))
            connection.execute(delete(tables.erased).where(tables.erased.c.erasure == erasure))
            finish(connection, erasure, state="failed", outcome={"reason": reason})

    # Objects

    def flush(self) -> None:
        """Write everything into the main file, over what was there: deleted rows are gone from it.

        While another process reads, some of it may have to wait until the next flush.
        """
        connection = self._engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()

    def keys(self, *states: str) -> set[str]:
        """The keys of the vault's objects that are in one of the states."""
        query = select(tables.objects.c.key).where(tables.objects.c.state.in_(states))
        with self._transaction() as connection:
            return set(connection.execute(query).scalars())

    def mark_destroyed(self, keys: Iterable[str]) -> None:
        """Write down that objects are gone."""
        with self._transaction() as connection:
            for some in batched(sorted(keys)):
                connection.execute(
                    update(tables.objects)
                    .where(tables.objects.c.key.in_(some))
                    .values(state="destroyed", destroyed=now())
                )
