"""Reading and writing the ledger of a run. Every method is one transaction."""

from __future__ import annotations

import contextlib
import re
import weakref
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import func, select, true

from obliviate.clock import stamp
from obliviate.disk.paths import naming
from obliviate.ledger import journal, tables
from obliviate.ledger.chain_rows import (
    OBJECT_COLUMNS,
    entry_of,
    held,
    insert_entries,
    live_objects,
    set_state,
)
from obliviate.ledger.change import batched, changing
from obliviate.ledger.database import QUICKLY_CHECKED_BYTES, damaged
from obliviate.ledger.facts import (
    ERASED,
    STITCHED,
    Entry,
    ErasureFacts,
    Part,
    RequestFacts,
    RunFacts,
)
from obliviate.ledger.lease import Lease
from obliviate.ledger.objects import Objects
from obliviate.ledger.open import created, in_the_clear, insert_part, opened, without_check
from obliviate.ledger.outcome import Outcome
from obliviate.ledger.records import (
    Newcomers,
    Records,
    add_to_requests,
    unlink,
    waiting_people,
    write_contents,
)
from obliviate.ledger.requests import (
    Requests,
    commit_overtaken,
    insert_request,
    move,
    plan,
    writable,
)
from obliviate.ledger.settling import close_finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from sqlalchemy import ColumnElement, Connection, Select, Table

    from obliviate.ledger.change import Change

_NOT_UNDERSTOOD = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
_ACKNOWLEDGED_SECONDS = 1.0
_FAULTS_SHOWN = 5
REPORTS_NAME, PAGE_NAME, PICTURE_NAME = "reports", "report.html", "erasure-{}.png"
"""What is written of a run for people, in its folder."""


class Ledger:
    """The facts of one run.

    Attributes:
        records: Its records and whom they belong to.
        requests: What was asked for.
        objects: What its vault holds.
        lease: The right to write; whoever rewrites the chain holds it.
    """

    def __init__(self, folder: Path, patience_seconds: float | None = None) -> None:
        """Open the ledger of the run in a folder.

        Args:
            folder: Which.
            patience_seconds: How long to wait for transactions of other processes; half a minute
                at most, and if None.

        Raises:
            RunMissing: There is none.
            RunDamaged: It is no ledger.
            OtherFormat: Another version of Obliviate wrote it.
            ConnectionLost: Its server cannot be reached.
        """
        self._folder = folder
        self._unwrap: Callable[[bytes, str], bytes] | None = None
        self._keys: dict[bytes, bytes] = {}
        self._database, self._run = opened(folder, patience_seconds)
        self.records = Records(self._database, self._run)
        self.requests = Requests(self._database, self._run, self._changing)
        self.objects = Objects(self._database, self._run, self._changing, self._destroy_reports)
        self.lease = Lease(self._database, self._run)
        # whoever forgets to close it leaves no connection open
        weakref.finalize(self, self._database.drop)

    @classmethod
    def create(
        cls,
        folder: Path,
        run: RunFacts,
        first: Entry,
        new: Newcomers,
        url: str | None = None,
        *,
        wrap: Callable[[bytes, str], bytes] = in_the_clear,
    ) -> Ledger:
        """Make the ledger of a new run; it is there in full or not at all.

        Args:
            folder: Of the run.
            run: What the run is made of.
            first: The initial state, block 0.
            new: Its records.
            url: The database; a file in the folder if None.
            wrap: Makes a key fit to be kept, by what it is for.
        """
        created(folder, run, first, new, url, wrap=wrap)
        return cls(folder)

    def unlock(self, unwrap: Callable[[bytes, str], bytes]) -> None:
        """Be able to read the keys of a sealed run: those under which people and records are known.

        Args:
            unwrap: Gives a key from what is kept of it, and what it is for.
        """
        self._unwrap = unwrap
        self._keys.clear()

    def _key(self, kept: bytes, purpose: str) -> bytes:
        if kept not in self._keys:  # a service is asked once
            key = without_check(kept)
            if key is None:
                raise damaged(self.where, f"the key of {purpose} is not what was written")
            self._keys[kept] = key if self._unwrap is None else self._unwrap(key, purpose)
        return self._keys[kept]

    @property
    def where(self) -> str:
        """The file or the server it lies in."""
        return self._database.where

    @property
    def name(self) -> str:
        """What tells the run from all others, and its copies not from itself."""
        query = select(tables.runs.c.name).where(tables.runs.c.id == self._run)
        with self._reading() as connection:
            return str(connection.execute(query).scalar_one())

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._database.reading()

    def _changing(self, event: str) -> AbstractContextManager[Change]:
        return changing(self._database, self._run, event, self.lease.holder)

    def _mine(self, table: Table, *conditions: ColumnElement[bool]) -> Select[Any]:
        return select(table).where(table.c.run == self._run, *conditions)

    def _destroy_reports(self) -> None:
        """Remove reports and pictures from before the run was exact: they show what is gone."""
        reports = self._folder / REPORTS_NAME
        with naming(reports):
            for path in reports.glob("*"):
                if path.name == PAGE_NAME or re.fullmatch(PICTURE_NAME.format("[0-9]+"), path.name):
                    path.unlink(missing_ok=True)

    # The run

    def run(self) -> RunFacts:
        """What the run was made of."""
        with self._reading() as connection:
            row = connection.execute(select(tables.runs).where(tables.runs.c.id == self._run)).one()
            samples = connection.execute(self._mine(tables.samples))
            query = self._mine(tables.parts).order_by(tables.parts.c.part)
            return RunFacts(
                samples={each.record: each.content for each in samples},
                parts=tuple(
                    Part(records=part.records, blocks=part.blocks)
                    for part in connection.execute(query)
                ),
                smallest_batch=row.smallest_batch,
                fingerprint=row.fingerprint,
                environment=row.environment,
                subject_key=row.subject_key and self._key(row.subject_key, "subjects"),
                content_key=self._key(row.content_key, "content"),
                tombstones=row.tombstones or {},
                vault=row.vault or {},
                project=row.project,
                made=row.made,
            )

    def add_samples(self, samples: Mapping[int, str]) -> None:
        """Know the dataset by some more records; see `RunFacts.samples`."""
        rows = [{"record": record, "content": content} for record, content in samples.items()]
        with self._changing("samples taken") as change:
            change.insert(tables.samples, rows)

    def extend(
        self,
        part: Part,
        new: Newcomers,
        samples: Mapping[int, str],
        first: Entry,
        contents: bytes = b"",
    ) -> None:
        """Add records behind those there are, and the first block that was trained on them.

        Those of people who asked to be forgotten meanwhile are added to what they asked for.

        Args:
            part: How many records, and how many blocks they are cut into.
            new: The records.
            samples: See `RunFacts`.
            first: The block.
            contents: What its records were; see `append`.
        """
        run = self.run()
        with self._changing("run extended") as change:
            waiting = waiting_people(change.connection, change.run)
            insert_part(change, run, len(run.parts), part, new)
            add_to_requests(change, waiting, run.records)
            insert_entries(change, tables.chain, [first])
            _set_contents(change, {first.block: contents})
            rows = [{"record": record, "content": said} for record, said in samples.items()]
            change.insert(tables.samples, rows)

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

    def destroy_subject_key(self) -> None:
        """Forget how subjects are hashed: nobody can be found by name any more."""
        with self._changing("subject key destroyed") as change:
            change.update(tables.runs, true(), {"subject_key": None})
        self._database.flush()

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
        found = [np.array([], dtype=np.int64)]
        for some in batched(np.unique(ids).tolist()):
            is_asked = tables.erased.c.record.in_(some)
            found.append(self._records(self._is_erased() & is_asked))
        return np.concatenate(found)

    def erased_count(self) -> int:
        """How many records are erased."""
        erased = tables.erased.c
        query = select(func.count()).where(erased.run == self._run, self._is_erased())
        with self._reading() as connection:
            return int(connection.execute(query).scalar_one())

    def excluded(self) -> NDArray[np.int64]:
        """The records that were left out before training, sorted."""
        return self._records(tables.erased.c.erasure.is_(None))

    def _records(self, condition: ColumnElement[bool]) -> NDArray[np.int64]:
        with self._reading() as connection:
            return self._records_in(connection, condition)

    def _records_in(
        self, connection: Connection, condition: ColumnElement[bool]
    ) -> NDArray[np.int64]:
        erased = tables.erased.c
        query = select(erased.record).where(erased.run == self._run, condition)
        found = connection.execute(query.order_by(erased.record)).scalars()
        return np.array(list(found), dtype=np.int64)

    # The journal

    def faults(self) -> list[str]:
        """What was changed in the ledger from outside: its file, rows, or the journal itself."""
        broken = self._database.faults()
        if broken:
            return broken
        name = self.name
        with self._reading() as connection:
            found = list(journal.faults(connection, self._run, name))
        return found or self._database.lost_links()

    @contextlib.contextmanager
    def understanding(self) -> Iterator[None]:
        """Name the damage where what the ledger says cannot be understood.

        Raises:
            RunDamaged: It is not what was written. What fails otherwise fails as it did.
        """
        try:
            yield
        except _NOT_UNDERSTOOD as error:
            found = self.faults()
            if not found:
                raise
            raise damaged(self.where, "; ".join(found[:_FAULTS_SHOWN])) from error

    def check(self, records: NDArray[np.int64] | None = None, names: Sequence[str] = ()) -> None:
        """See that what is about to be relied on is what was written: all but the long tables.

        Args:
            records: Of the long tables, the rows of these.
            names: The tables; all but the long ones if none are named.

        Raises:
            RunDamaged: It is not; the message says what.
        """
        with self._reading() as connection:
            found = [
                fault
                for name in names or journal.GROUPED
                for fault in journal.unsaid(connection, self._run, name)
            ]
            if records is not None:
                spans = set(np.unique(records // journal.SPAN_ROWS).tolist())
                found += journal.unsaid(connection, self._run, tables.records.name, spans)
        if not found and not names:
            found = self._database.faults(most_bytes=QUICKLY_CHECKED_BYTES)
        if found:
            raise damaged(self.where, "; ".join(found[:_FAULTS_SHOWN]))

    def journal(self) -> list[journal.JournalEntry]:
        """All that was done, from the first entry on."""
        with self._reading() as connection:
            return list(journal.entries(connection, self._run))

    def journal_head(self) -> str:
        """The hash of the last entry of the journal, which stands for all of it."""
        written = tables.journal.c
        query = select(written.hash).where(written.run == self._run)
        with self._reading() as connection:
            found = connection.execute(query.order_by(written.number.desc()).limit(1)).scalar()
        return found or "none: the journal is empty"

    def journal_hash(self, number: int) -> str | None:
        """The hash of one entry of the journal; None where there is none of that number."""
        written = tables.journal.c
        query = select(written.hash).where(written.run == self._run, written.number == number)
        with self._reading() as connection:
            return connection.execute(query).scalar()

    def journal_end(self) -> tuple[int, str]:
        """The number and the hash of the last entry of the journal."""
        written = tables.journal.c
        query = select(written.number, written.hash).where(written.run == self._run)
        with self._reading() as connection:
            found = connection.execute(query.order_by(written.number.desc()).limit(1)).one()
        return found.number, found.hash

    def begin_writing(self, token: str) -> None:
        """Write down that a process is about to write.

        Args:
            token: What no other process has: two copies of a ledger that go on differ from here.
        """
        with self._changing(f"writing begun by {token}"):
            pass

    def days_of_changes(self) -> list[tuple[str, str]]:
        """When something was written down: the first and the last time of each day, in order.

        Times are ISO 8601 in UTC; the days are those that the clocks of the writers showed.
        """
        time = tables.journal.c.time
        query = (
            select(func.min(time), func.max(time))
            .where(tables.journal.c.run == self._run)
            .group_by(func.substr(time, 1, len("2030-12-20")))
        )
        with self._reading() as connection:
            return sorted((first, last) for first, last in connection.execute(query))

    # The chain

    def entries(self) -> list[Entry]:
        """The chain, from block 0 on."""
        with self._reading() as connection:
            objects = live_objects(connection, self._run)
            query = self._mine(tables.chain).order_by(tables.chain.c.block)
            entries = [entry_of(row, objects) for row in connection.execute(query)]
        if not entries or [entry.block for entry in entries] != list(range(len(entries))):
            raise damaged(self.where, "it lacks blocks of the chain")
        return entries

    def pace(self) -> tuple[list[float], int | None]:
        """The seconds that each block 1..B took, and the first block whose state is not exact."""
        columns = tables.chain.c
        query = select(columns.seconds, columns.guarantee, columns.block)
        query = query.where(columns.run == self._run).order_by(columns.block)
        with self._reading() as connection:
            rows = connection.execute(query).all()
        inexact = (row.block for row in rows if row.guarantee != "exact")
        return [row.seconds for row in rows[1:]], next(inexact, None)

    def length(self) -> int:
        """The number of the last block of the chain."""
        query = select(func.max(tables.chain.c.block)).where(tables.chain.c.run == self._run)
        with self._reading() as connection:
            last = connection.execute(query).scalar()
        if last is None:
            raise damaged(self.where, "it lacks blocks of the chain")
        return int(last)

    def append(self, entry: Entry, contents: bytes = b"") -> None:
        """Add a checkpoint at the end of the chain; its objects become live with it.

        Args:
            entry: The checkpoint.
            contents: What the block's records were; see `obliviate.recipe.contents`.
        """
        with self._changing(f"block {entry.block} trained") as change:
            insert_entries(change, tables.chain, [entry])
            _set_contents(change, {entry.block: contents})

    def contents(self, block: int) -> bytes:
        """What the records of a block were; nothing where that is not known."""
        columns = tables.contents.c
        query = select(columns.hashes).where(columns.run == self._run, columns.block == block)
        with self._reading() as connection:
            return connection.execute(query).scalar() or b""

    # Requests and erasures

    def request(
        self, method: Mapping[str, object], records: NDArray[np.int64], *, due: str
    ) -> RequestFacts:
        """Register a request; any process may, also while another one writes to the run."""
        with changing(self._database, self._run, "request received", None) as change:
            number = insert_request(change, method, records, due=due)
            if commit_overtaken(change, None, number):
                close_finished(change)
        # what was acknowledged must not hang on the log beside the file
        self._database.flush(_ACKNOWLEDGED_SECONDS)
        return self.requests.request(number)

    def begin(
        self,
        kind: str,
        method: Mapping[str, object],
        records: NDArray[np.int64],
        *,
        requests: Iterable[int] = (),
        due: str | None = None,
    ) -> ErasureFacts:
        """Write down what is to be erased, before anything is done.

        Args:
            kind: "forget" or "settle".
            method: Its name and options.
            records: To erase.
            requests: What waits and is carried out by this.
            due: The deadline, where this is a request of its own.
        """
        with self._changing(f"{kind} begun") as change:
            number = change.next_id(tables.erasures)
            row = {
                "id": number,
                "state": "running",
                "kind": kind,
                "method": dict(method),
                "started": stamp(),
            }
            change.insert(tables.erasures, [row])
            rows = [{"record": int(record), "erasure": number} for record in records]
            change.insert(tables.erased, rows)
            own = [] if due is None else [insert_request(change, method, records, due=due)]
            plan(change, [*requests, *own], number)
        return self.erasure(number)

    def erasure(self, number: int) -> ErasureFacts:
        """One erasure."""
        return next(iter(self._erasures(tables.erasures.c.id == number)))

    def erasures(self) -> list[ErasureFacts]:
        """All erasures, in the order in which they were begun."""
        return self._erasures(true())

    def _erasures(self, condition: ColumnElement[bool]) -> list[ErasureFacts]:
        erased, erasures = tables.erased.c, tables.erasures.c
        is_its = (erased.run == erasures.run) & (erased.erasure == erasures.id)
        counted = select(func.count()).where(is_its).scalar_subquery().label("records")
        columns = [column for column in erasures if column.name != "run"]
        query = select(*columns, counted).where(erasures.run == self._run, condition)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(erasures.id)).mappings()
            return [ErasureFacts(**{**row, "outcome": _outcome(row["outcome"])}) for row in rows]

    def running(self) -> ErasureFacts | None:
        """The erasure that was begun and is neither carried out nor given up."""
        return next(iter(self._erasures(tables.erasures.c.state == "running")), None)

    def records_of_erasure(self, number: int) -> NDArray[np.int64]:
        """The records that an erasure erases, sorted."""
        return self._records(tables.erased.c.erasure == number)

    def stage(self, entry: Entry) -> None:
        """Keep a replayed block of a running erasure, so that a crash does not lose it."""
        with self._changing(f"block {entry.block} replayed") as change:
            insert_entries(change, tables.staged, [entry])
            if entry.erasure is not None:
                move(change, entry.erasure, "replaying")

    def staged(self, erasure: int) -> dict[int, Entry]:
        """The blocks that a running erasure has replayed so far."""
        query = self._mine(tables.staged, tables.staged.c.erasure == erasure)
        with self._reading() as connection:
            objects = live_objects(connection, self._run)
            return {row.block: entry_of(row, objects) for row in connection.execute(query)}

    def commit(
        self,
        erasure: int,
        *,
        replaced: Sequence[Entry],
        stitched: Sequence[range],
        outcome: Outcome,
        contents: Mapping[int, bytes] = MappingProxyType({}),
    ) -> None:
        """Carry out an erasure, all or nothing: rewrite the chain and condemn the old objects.

        Args:
            erasure: Its number.
            replaced: New entries.
            stitched: Blocks whose state is from now on the stitched one: they keep their update and
                lose keyframe, optimizer state and digest, unless they are among the replaced too.
            outcome: What came of it.
            contents: What the records of blocks are from now on, where that is another.
        """
        chain, blocks = tables.chain, [entry.block for entry in replaced]
        with self._changing("erasure committed") as change:
            for span in stitched:
                is_stitched = chain.c.block.between(span.start, span.stop - 1)
                set_state(change, held(change, is_stitched, ("keyframe", "optimizer")), "condemned")
                change.update(chain, is_stitched, {**STITCHED, "erasure": erasure})
            for some in batched(blocks):
                is_replaced = chain.c.block.in_(some)
                set_state(change, held(change, is_replaced, OBJECT_COLUMNS), "condemned")
                change.delete(chain, is_replaced)
            change.delete(tables.staged, tables.staged.c.erasure == erasure)
            insert_entries(change, chain, replaced)
            # a stitched update that a new entry goes on holding is spared
            kept = {stored.key for entry in replaced for stored in entry.objects}
            set_state(change, kept, "live")
            mine = (tables.erased.c.run == self._run) & (tables.erased.c.erasure == erasure)
            records = select(tables.erased.c.record).where(mine)
            change.delete(tables.samples, tables.samples.c.record.in_(records))
            unlink(change, change.connection.execute(records).scalars())
            _set_contents(change, contents)
            self._finish(change, erasure, state="committed", outcome=outcome)
            move(change, erasure, "committed")
            commit_overtaken(change, erasure)

    def give_up(self, erasure: int, reason: str, *, is_refused: bool = True) -> None:
        """Take a running erasure back: what it staged is condemned, its records are not erased.

        Args:
            erasure: Its number.
            reason: In words.
            is_refused: Whether its requests end with it; else they wait to be taken up again.
        """
        reason = writable(reason)
        with self._changing("erasure taken back") as change:
            is_staged = tables.staged.c.erasure == erasure
            keys = held(change, is_staged, OBJECT_COLUMNS, table=tables.staged)
            set_state(change, keys - held(change, true(), OBJECT_COLUMNS), "condemned")
            change.delete(tables.staged, is_staged)
            change.delete(tables.erased, tables.erased.c.erasure == erasure)
            self._finish(change, erasure, state="failed", outcome=Outcome(stop_reason=reason))
            if is_refused:
                move(change, erasure, "refused", {"reason": reason, "closed": stamp()})
            else:
                move(change, erasure, "requested", {"reason": reason, "erasure": None})

    @staticmethod
    def _finish(change: Change, number: int, *, state: str, outcome: Outcome) -> None:
        values = {"state": state, "outcome": outcome.to_json(), "finished": stamp()}
        change.update(tables.erasures, tables.erasures.c.id == number, values)

    def flush(self) -> bool:
        """See `Database.flush`."""
        return self._database.flush()


def _outcome(values: Mapping[str, Any] | None) -> Outcome | None:
    return None if values is None else Outcome.from_json(values)


def _set_contents(change: Change, contents: Mapping[int, bytes]) -> None:
    change.delete(tables.contents, tables.contents.c.block.in_(list(contents)))
    rows = [{"block": block, "hashes": hashes} for block, hashes in contents.items() if hashes]
    change.insert(tables.contents, rows)
