"""The tables of the ledger. Every row belongs to a run; a database may hold many runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
)

from obliviate.errors import PUT_BACK, RunDamaged

if TYPE_CHECKING:
    from sqlalchemy import Dialect

HEAD = "0001"
"""The revision of the schema that this version reads and writes; see `ledger/migrations`."""


class JsonText(TypeDecorator[Any]):
    """JSON, kept as the very text that was written, so that its bytes can be hashed."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        """To text."""
        return None if value is None else json.dumps(value, sort_keys=True)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ARG002
        """From text.

        Raises:
            RunDamaged: It is no JSON.
        """
        try:
            return None if value is None else json.loads(value)
        except (ValueError, TypeError) as error:
            raise RunDamaged(
                f"the ledger holds a value that is no JSON ({error})",
                hint=f"`obliviate verify` says what was changed; {PUT_BACK}",
            ) from error


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

alembic_version = Table(
    "alembic_version", metadata, Column("version_num", String(32), primary_key=True)
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(32), nullable=False, unique=True),
    Column("smallest_batch", Integer, nullable=False),
    Column("fingerprint", JsonText, nullable=False),
    Column("environment", JsonText, nullable=False),
    Column("subject_key", LargeBinary),  # None once it was destroyed
    Column("content_key", LargeBinary, nullable=False),
    Column("tombstones", JsonText),
    Column("vault", JsonText),
    Column("references", Integer, nullable=False),
    Column("project", JsonText, nullable=False),
    Column("made", String, nullable=False),
)


def _run() -> Column[int]:
    return Column("run", Integer, ForeignKey("runs.id"), primary_key=True, autoincrement=False)


def _number(name: str) -> Column[int]:
    return Column(name, Integer, primary_key=True, autoincrement=False)


def _of_run(column: str, target: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["run", column], [f"{target.split('.', maxsplit=1)[0]}.run", target]
    )


parts = Table(
    "parts",
    metadata,
    _run(),
    _number("part"),
    Column("records", Integer, nullable=False),
    Column("blocks", Integer, nullable=False),
    Column("epochs", Integer, nullable=False),  # there may be more deals: training was ended early
    Column("keep", Integer, nullable=False),
    Column("is_over_all", Integer, nullable=False),  # 0 or 1, as the next one
    Column("has_subjects", Integer, nullable=False),
    Column("made", String, nullable=False),
)

deals = Table(
    "deals",
    metadata,
    _run(),
    _number("part"),
    _number("epoch"),  # of the part, from 0
    Column("seed", String, nullable=False),  # in digits: it takes all of 64 bits
    Column("cuts", LargeBinary, nullable=False),
    Column("counts", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

samples = Table(
    "samples",
    metadata,
    _run(),
    _number("record"),
    Column("content", String, nullable=False),
)

subjects = Table(
    "subjects",
    metadata,
    _run(),
    _number("id"),
    Column("hash", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
# no constraint: SQLite would look up each row that the constraint's index names, and see in the
# index nothing of what is lost in the table
subject_hash_index = Index(None, subjects.c.run, subjects.c.hash, unique=True)

# no foreign keys: checking millions of rows would take longer than writing them, and the journal
# covers them anyway
records = Table(
    "records",
    metadata,
    Column("run", Integer, primary_key=True, autoincrement=False),
    _number("record"),
    Column("kin", Integer, nullable=False),  # the group that it is dealt with
    Column("subject", Integer),  # None where it was erased, or belongs to nobody
    Column("content", LargeBinary),  # the tombstone that it would have
    sqlite_with_rowid=False,
)
subject_index = Index(None, records.c.run, records.c.subject)

# the second and further people of records that belong to several: most belong to one
further = Table(
    "further",
    metadata,
    Column("run", Integer, primary_key=True, autoincrement=False),
    _number("record"),
    _number("subject"),
    Index(None, "run", "subject"),
    sqlite_with_rowid=False,
)

objects = Table(
    "objects",
    metadata,
    _run(),
    Column("key", String, primary_key=True),
    Column("size_bytes", BigInteger),  # what tells of the content is gone before the object is
    Column("hash", String),
    Column("sealed_key", LargeBinary),
    Column("state", String, nullable=False),  # live | condemned | destroyed
    Column("made", String, nullable=False),
    Column("destroyed", String),
    Index(None, "run", "state"),
)


def _entry_columns() -> list[Any]:
    return [
        Column("origin", String, nullable=False),
        Column("guarantee", String, nullable=False),
        Column("digest", String),
        Column("loss", Double),
        Column("evaluation", JsonText),  # what the user measured
        Column("seconds", Double, nullable=False),
        Column("update", String),
        Column("keyframe", String),
        Column("optimizer", String),
        Column("erasure", Integer),
        _of_run("update", "objects.key"),
        _of_run("keyframe", "objects.key"),
        _of_run("optimizer", "objects.key"),
        _of_run("erasure", "erasures.id"),
    ]


chain = Table("chain", metadata, _run(), _number("block"), *_entry_columns())

contents = Table(
    "contents",
    metadata,
    _run(),
    _number("block"),
    Column("hashes", LargeBinary, nullable=False),  # of its records, by obliviate.recipe.contents
)

# replayed blocks of the running erasure: there is one at a time
staged = Table("staged", metadata, _run(), _number("block"), *_entry_columns())

erasures = Table(
    "erasures",
    metadata,
    _run(),
    _number("id"),
    Column("state", String, nullable=False),  # running | committed | settled | failed
    Column("kind", String, nullable=False),
    Column("method", JsonText, nullable=False),
    Column("started", String, nullable=False),
    Column("finished", String),
    Column("outcome", JsonText),  # None while it runs
)

erased = Table(
    "erased",
    metadata,
    _run(),
    _number("record"),
    Column("erasure", Integer),  # None: left out before training
    Index(None, "run", "erasure"),
    _of_run("erasure", "erasures.id"),
    sqlite_with_rowid=False,
)

requests = Table(
    "requests",
    metadata,
    _run(),
    _number("id"),
    Column("state", String, nullable=False),
    Column("received", String, nullable=False),
    Column("due", String, nullable=False),
    Column("method", JsonText, nullable=False),
    Column("erasure", Integer),
    Column("reason", String),
    Column("closed", String),
    Index(None, "run", "state"),
    _of_run("erasure", "erasures.id"),
)

requested = Table(
    "requested",
    metadata,
    _run(),
    _number("request"),
    _number("record"),
    _of_run("request", "requests.id"),
    sqlite_with_rowid=False,
)

# models that were handed on: what lies there is out of the run's reach
exports = Table(
    "exports",
    metadata,
    _run(),
    _number("id"),
    Column("state", String, nullable=False),  # begun | there | replaced | withdrawn
    Column("place", String, nullable=False),
    Column("form", String, nullable=False),
    Column("made", String, nullable=False),
    Column("block", Integer, nullable=False),
    Column("guarantee", String, nullable=False),
    Column("digest", String),  # None once the run is exact and it hangs on erased records
    Column("erasure", Integer),  # the last one that was carried out by then
    Column("closed", String),
    _of_run("erasure", "erasures.id"),
)

journal = Table(
    "journal",
    metadata,
    _run(),
    _number("number"),
    Column("time", String, nullable=False),
    Column("event", String, nullable=False),
    Column("body", String, nullable=False),
    Column("hash", String, nullable=False),
)

# what the hashes of the journal are salted with; a salt is gone as soon as its rows are others
salts = Table(
    "salts",
    metadata,
    _run(),
    Column("of", String, primary_key=True),
    Column("rows", String, primary_key=True),
    Column("salt", LargeBinary, nullable=False),
    Column("hash", String, nullable=False),
    sqlite_with_rowid=False,
)

leases = Table(
    "leases",
    metadata,
    _run(),
    Column("holder", String),
    Column("process", JsonText),
    Column("beat", Integer, nullable=False),
)
