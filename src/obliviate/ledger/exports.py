"""Exports: models that were handed on, and which of them hold somebody who was erased since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, true

from obliviate.clock import stamp
from obliviate.errors import ModelGone
from obliviate.ledger import tables
from obliviate.ledger.database import RunRows
from obliviate.ledger.facts import ERASED, OUTSIDE, ExportFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, Connection

    from obliviate.ledger.change import Change
    from obliviate.ledger.facts import Entry, ExportState, Standing

_ACKNOWLEDGED_SECONDS = 1.0


class Exports(RunRows):
    """The exports of one run."""

    def begin(self, place: str, form: str, last: Entry) -> ExportFacts:
        """Write down that a model is about to be handed on, before anything of it is anywhere.

        Args:
            place: Where to.
            form: In what form.
            last: The entry of the chain whose state it shows.

        Raises:
            ModelGone: The model is another by now.
        """
        with self._changing("export begun") as change:
            digest = _served(change.connection, change.run)
            if digest != last.digest:
                raise ModelGone(
                    "the model was replaced while it was about to be exported",
                    hint="call again: it is the new one that is exported then",
                )
            number = change.next_id(tables.exports)
            row = {
                "id": number,
                "state": "begun",
                "place": place,
                "form": form,
                "made": stamp(),
                "block": last.block,
                "guarantee": last.guarantee,
                "digest": digest,
                "erasure": _last_erasure(change.connection, change.run),
            }
            change.insert(tables.exports, [row])
        # what is outside must not hang on the log beside the file
        self._database.flush(_ACKNOWLEDGED_SECONDS)
        return self._one(number)

    def finish(self, number: int) -> ExportFacts:
        """Write down that all of an export is there, in the place of earlier ones."""
        exports = tables.exports.c
        place = select(exports.place).where(exports.run == self._run, exports.id == number)
        with self._changing("export made") as change:
            is_there = exports.place == change.connection.execute(place).scalar_one()
            _close(change, is_there & (exports.id != number), "replaced")
            change.update(tables.exports, exports.id == number, {"state": "there"})
        return self._one(number)

    def give_up(self, number: int) -> None:
        """Forget an export of which nothing is left anywhere."""
        with self._changing("export given up") as change:
            change.delete(tables.exports, tables.exports.c.id == number)

    def withdraw(self, place: str) -> list[ExportFacts]:
        """Write down that what was exported to a place is nowhere any more; return what it was."""
        exports = tables.exports.c
        theirs = (exports.place == place) & exports.state.in_(OUTSIDE)
        query = select(exports.id).where(exports.run == self._run, theirs)
        with self._changing("export withdrawn") as change:
            numbers = list(change.connection.execute(query).scalars())
            _close(change, theirs, "withdrawn")
        return self._facts(exports.id.in_(numbers))

    def all(self) -> list[ExportFacts]:
        """All exports there ever were, in order."""
        return self._facts(true())

    def outside(self) -> list[ExportFacts]:
        """Those that may be somewhere, as far as anybody told."""
        return self._facts(tables.exports.c.state.in_(OUTSIDE))

    def _one(self, number: int) -> ExportFacts:
        return self._facts(tables.exports.c.id == number)[0]

    def _facts(self, condition: ColumnElement[bool]) -> list[ExportFacts]:
        exports = tables.exports
        columns = [column for column in exports.c if column.name != "run"]
        query = select(*columns).where(exports.c.run == self._run, condition).order_by(exports.c.id)
        with self._database.reading() as connection:
            rows = connection.execute(query).mappings().all()
            if not rows:
                return []
            digest = _served(connection, self._run)
            erasures = list(_erasures(connection, self._run))
        return [_standing(dict(row), digest, erasures) for row in rows]


def redact_exports(change: Change, digest: str | None) -> bool:
    """Keep no digest of a model that hangs on erased records; say whether there was one.

    Once the run is exact, whoever trains once for each guess at a record would find the right one
    by it.

    Args:
        change: Where.
        digest: Of the run's model now.
    """
    exports, last = tables.exports.c, _last_erasure(change.connection, change.run) or 0
    hangs = (exports.guarantee != "exact") | (func.coalesce(exports.erasure, 0) < last)
    is_its = (exports.digest != digest) & hangs
    return bool(change.update(tables.exports, is_its, {"digest": None}))


def _close(change: Change, which: ColumnElement[bool], state: ExportState) -> None:
    is_outside = tables.exports.c.state.in_(OUTSIDE)
    change.update(tables.exports, which & is_outside, {"state": state, "closed": stamp()})


def _served(connection: Connection, run: int) -> str | None:
    """The digest of the chain's last state."""
    chain = tables.chain.c
    query = select(chain.digest).where(chain.run == run).order_by(chain.block.desc()).limit(1)
    return connection.execute(query).scalar()


def _last_erasure(connection: Connection, run: int) -> int | None:
    erasures = tables.erasures.c
    query = select(func.max(erasures.id)).where(erasures.run == run, erasures.state.in_(ERASED))
    return connection.execute(query).scalar()


def _erasures(connection: Connection, run: int) -> Iterator[int]:
    """The erasures that were carried out and erased records, in order."""
    erasures, erased = tables.erasures.c, tables.erased.c
    has_records = select(erased.record).where(erased.run == run, erased.erasure == erasures.id)
    query = select(erasures.id).where(
        erasures.run == run, erasures.state.in_(ERASED), has_records.exists()
    )
    yield from connection.execute(query.order_by(erasures.id)).scalars()


def _standing(row: dict[str, Any], digest: str | None, erasures: list[int]) -> ExportFacts:
    if row["digest"] is not None and row["digest"] == digest:
        return ExportFacts(**row, standing="current")  # whoever was erased since, it never saw
    since = tuple(each for each in erasures if each > (row["erasure"] or 0))
    standing: Standing = "stale" if since else "older"
    return ExportFacts(**row, standing=standing, erased_since=since)
