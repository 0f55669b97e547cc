"""Reading and writing the ledger of a run. Every method is one transaction."""

from __future__ import annotations

import contextlib
import re
import weakref
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import select, true

from obliviate.disk.paths import naming
from obliviate.ledger import journal, tables
from obliviate.ledger.chain_rows import ChainRows, insert_entries, set_contents
from obliviate.ledger.change import changing
from obliviate.ledger.create import created
from obliviate.ledger.database import QUICKLY_CHECKED_BYTES, damaged
from obliviate.ledger.erasures import Erasures
from obliviate.ledger.exports import Exports
from obliviate.ledger.facts import RunFacts
from obliviate.ledger.journal import Journal
from obliviate.ledger.keys import Keys, in_the_clear
from obliviate.ledger.lease import Lease
from obliviate.ledger.newcomers import insert_part
from obliviate.ledger.objects import Objects
from obliviate.ledger.open import opened
from obliviate.ledger.records import Records, add_to_requests, waiting_people
from obliviate.ledger.requests import Requests
from obliviate.ledger.row_groups import GROUPED, SPAN_ROWS
from obliviate.recipe.deal import Deal
from obliviate.recipe.parts import Part, is_dealt, parts_in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from sqlalchemy import Connection

    from obliviate.ledger.change import Change
    from obliviate.ledger.facts import Entry
    from obliviate.ledger.newcomers import Newcomers

_NOT_UNDERSTOOD = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
_FAULTS_SHOWN = 5
REPORTS_NAME, PAGE_NAME, PICTURE_NAME = "reports", "report.html", "erasure-{}.png"
"""What is written of a run for people, in its folder."""


class Ledger:
    """The facts of one run.

    Attributes:
        records: Its records and whom they belong to.
        chain: Its checkpoints.
        requests: What was asked for.
        erasures: What is erased, or was.
        exports: Models that were handed on.
        journal: What was done.
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
        self._database, self._run = opened(folder, patience_seconds)
        self._keys = Keys(self._database.where)
        at = (self._database, self._run, self._changing)
        self.records, self.chain, self.journal = Records(*at), ChainRows(*at), Journal(*at)
        self.requests, self.erasures = Requests(*at), Erasures(*at)
        self.objects, self.exports = Objects(*at, self._destroy_reports), Exports(*at)
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
        self._keys.unlock(unwrap)

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
            samples = connection.execute(
                select(tables.samples).where(tables.samples.c.run == self._run)
            )
            return RunFacts(
                samples={each.record: each.content for each in samples},
                parts=self._parts(connection),
                smallest_batch=row.smallest_batch,
                fingerprint=row.fingerprint,
                environment=row.environment,
                subject_key=row.subject_key and self._keys.key(row.subject_key, "subjects"),
                content_key=self._keys.key(row.content_key, "content"),
                tombstones=row.tombstones or {},
                vault=row.vault or {},
                references=row.references,
                project=row.project,
                made=row.made,
            )

    def _parts(self, connection: Connection) -> tuple[Part, ...]:
        deals: dict[int, list[Deal]] = {}
        rows = tables.deals.c
        query = select(tables.deals).where(rows.run == self._run).order_by(rows.part, rows.epoch)
        for row in connection.execute(query):
            deals.setdefault(row.part, []).append(Deal(int(row.seed), row.cuts, row.counts))
        its = tables.parts.c
        query = select(tables.parts).where(its.run == self._run).order_by(its.part)
        parts = parts_in_order(
            Part(
                records=row.records,
                blocks=row.blocks,
                deals=tuple(deals.get(row.part, ())[: row.epochs]),
                given_up=tuple(deals.get(row.part, ())[row.epochs :]),
                keep=row.keep,
                is_over_all=bool(row.is_over_all),
            )
            for row in connection.execute(query)
        )
        if not parts or not all(map(is_dealt, parts)):
            raise damaged(self.where, "it does not say how the records were dealt to the blocks")
        return parts

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
        entries: Sequence[Entry],
        contents: Mapping[int, bytes] = MappingProxyType({}),
    ) -> None:
        """Add records behind those there are, and the first blocks that were trained on them.

        Those of people who asked to be forgotten meanwhile are added to what they asked for.

        Args:
            part: How many records, and how many blocks they are cut into.
            new: The records.
            samples: See `RunFacts`.
            entries: The blocks.
            contents: What the records of each were; see `ChainRows.append`.
        """
        run = self.run()
        with self._changing("run extended") as change:
            waiting = waiting_people(change.connection, change.run)
            insert_part(change, run, len(run.parts), part, new)
            add_to_requests(change, waiting, run.records)
            insert_entries(change, tables.chain, entries)
            set_contents(change, contents)
            rows = [{"record": record, "content": content} for record, content in samples.items()]
            change.insert(tables.samples, rows)

    def end_early(self, part: int, epochs: int) -> None:
        """End the training of a part after so many of its epochs, all of which are kept in full."""
        with self._changing(f"training ended after epoch {epochs}") as change:
            values = {"epochs": epochs, "keep": epochs}
            change.update(tables.parts, tables.parts.c.part == part, values)

    def destroy_subject_key(self) -> None:
        """Forget how subjects are hashed: nobody can be found by name any more."""
        with self._changing("subject key destroyed") as change:
            change.update(tables.runs, true(), {"subject_key": None})
        self._database.flush()

    def faults(self) -> list[str]:
        """What was changed in the ledger from outside: its file, rows, or the journal itself."""
        broken = self._database.faults()
        if broken:
            return broken
        name = self.name
        with self._reading() as connection:
            faults = list(journal.faults(connection, self._run, name))
        return faults or self._database.lost_links()

    @contextlib.contextmanager
    def understanding(self) -> Iterator[None]:
        """Name the damage where what the ledger says cannot be understood.

        Raises:
            RunDamaged: It is not what was written. What fails otherwise fails as it did.
        """
        try:
            yield
        except _NOT_UNDERSTOOD as error:
            faults = self.faults()
            if not faults:
                raise
            raise damaged(self.where, "; ".join(faults[:_FAULTS_SHOWN])) from error

    def check(self, records: NDArray[np.int64] | None = None, names: Sequence[str] = ()) -> None:
        """See that what is about to be relied on is what was written: all but the long tables.

        Args:
            records: Of the long tables, the rows of these.
            names: The tables; all but the long ones if none are named.

        Raises:
            RunDamaged: It is not; the message says what.
        """
        with self._reading() as connection:
            faults = [
                fault
                for name in names or GROUPED
                for fault in journal.row_faults(connection, self._run, name)
            ]
            if records is not None:
                spans = set(np.unique(records // SPAN_ROWS).tolist())
                faults += journal.row_faults(connection, self._run, tables.records.name, spans)
        if not faults and not names:
            faults = self._database.faults(most_bytes=QUICKLY_CHECKED_BYTES)
        if faults:
            raise damaged(self.where, "; ".join(faults[:_FAULTS_SHOWN]))

    def flush(self) -> bool:
        """See `Database.flush`."""
        return self._database.flush()
