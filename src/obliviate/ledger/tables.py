"""The tables of the ledger."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

FORMAT = 1

metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("format", Integer, nullable=False),
    Column("records", Integer, nullable=False),
    Column("blocks", Integer, nullable=False),
    Column("smallest_batch", Integer, nullable=False),
    Column("fingerprint", JSON, nullable=False),
    Column("environment", JSON, nullable=False),
    Column("subject_key", LargeBinary, nullable=False),
    Column("project", JSON, nullable=False),
    Column("made", String, nullable=False),
)

samples = Table(
    "samples",
    metadata,
    Column("record", Integer, primary_key=True),
    Column("content", String, nullable=False),
)

subjects = Table(
    "subjects",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("hash", LargeBinary, nullable=False, unique=True),
)

records = Table(
    "records",
    metadata,
    Column("record", Integer, primary_key=True),
    Column("subject", ForeignKey("subjects.id"), nullable=False, index=True),
)

objects = Table(
    "objects",
    metadata,
    Column("key", String, primary_key=True),
    Column("size_bytes", Integer, nullable=False),
    Column("sha256", String, nullable=False),
    Column("state", String, nullable=False, index=True),  # live | condemned | destroyed
    Column("made", String, nullable=False),
    Column("destroyed", String),
)


def _entry_columns() -> list[Column[object]]:
    return [
        Column("origin", String, nullable=False),
        Column("guarantee", String, nullable=False),
        Column("digest", String),
        Column("loss", Float),
        Column("seconds", Float, nullable=False),
        Column("update", ForeignKey("objects.key")),
        Column("keyframe", ForeignKey("objects.key")),
        Column("optimizer", ForeignKey("objects.key")),
    ]


chain = Table(
    "chain",
    metadata,
    Column("block", Integer, primary_key=True),
    *_entry_columns(),
    Column("erasure", ForeignKey("erasures.id")),
)

staged = Table(
    "staged",
    metadata,
    Column("erasure", ForeignKey("erasures.id"), primary_key=True),
    Column("block", Integer, primary_key=True),
    *_entry_columns(),
)

erasures = Table(
    "erasures",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("state", String, nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("method", JSON, nullable=False),
    Column("started", String, nullable=False),
    Column("finished", String),
    Column("outcome", JSON, nullable=False),
)

erased = Table(
    "erased",
    metadata,
    Column("record", Integer, primary_key=True),
    # None: left out when the run was made
    Column("erasure", ForeignKey("erasures.id"), index=True),
)
