"""Many runs in one database, requests, a journal; from the first schema of one run in one file.

Revision 0001 had no revisions yet: its tables are told by their names.
"""

from __future__ import annotations

import json
import uuid
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import op

from obliviate.blocks import Layout, parts_of

if TYPE_CHECKING:
    import numpy as np

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_OLD = (
    "runs",
    "samples",
    "subjects",
    "records",
    "objects",
    "chain",
    "staged",
    "erasures",
    "erased",
)
_ENTRY = 'origin, guarantee, digest, loss, seconds, "update", keyframe, optimizer, erasure'


def upgrade() -> None:
    """From 0001."""
    for name in _OLD:
        op.rename_table(name, f"old_{name}")
    for index in (
        "ix_records_subject",
        "ix_objects_state",
        "ix_erasures_state",
        "ix_erased_erasure",
    ):
        op.execute(f"DROP INDEX IF EXISTS {index}")
    _make_tables()
    _copy(op.get_bind())
    for name in (
        "staged",
        "chain",
        "erased",
        "records",
        "samples",
        "subjects",
        "objects",
        "erasures",
        "runs",
    ):
        op.drop_table(f"old_{name}")


def downgrade() -> None:
    """Not offered: a copy of the file from before is kept."""
    raise NotImplementedError


def _copy(connection: sa.Connection) -> None:
    old = connection.exec_driver_sql("SELECT * FROM old_runs").mappings().one()
    _copy_run(connection, old)
    blocks = _blocks(old)
    copied = {
        "samples": "record, content",
        "subjects": "id, hash",
        "objects": "key, size_bytes, sha256, state, made, destroyed",
        "erasures": "id, state, kind, method, started, finished, outcome",
        "erased": "record, erasure",
        "chain": f"block, {_ENTRY}",
        "staged": f"block, {_ENTRY}",
    }
    for name, columns in copied.items():
        statement = f"INSERT INTO {name} (run, {columns}) SELECT 1, {columns} FROM old_{name}"  # noqa: S608
        connection.exec_driver_sql(statement)
    _copy_records(connection, old, blocks)


def _copy_run(connection: sa.Connection, old: Any) -> None:
    # one key served for subjects and samples; the samples go on under it
    row = (
        1,
        uuid.uuid4().hex,
        old["smallest_batch"],
        old["fingerprint"],
        old["environment"],
        old["subject_key"],
        old["subject_key"],
        None,
        old["project"],
        old["made"],
    )
    marks = ", ".join("?" for _ in row)
    connection.exec_driver_sql(f"INSERT INTO runs VALUES ({marks})", row)  # noqa: S608


def _blocks(old: Any) -> np.ndarray[Any, Any]:
    fingerprint = json.loads(old["fingerprint"])
    layout = Layout(
        parts=parts_of([(old["records"], old["blocks"])]),
        seed=int(fingerprint["seed"]),
        batch_size=int(fingerprint["batch_size"]),
        epochs=int(fingerprint["epochs"]),
        smallest_batch=old["smallest_batch"],
    )
    return layout.all_blocks()


def _copy_records(connection: sa.Connection, old: Any, blocks: np.ndarray[Any, Any]) -> None:
    found = connection.exec_driver_sql("SELECT record, subject FROM old_records ORDER BY record")
    people: dict[int, int] = dict(found.all())
    hashes: dict[int, bytes] = dict(
        connection.exec_driver_sql("SELECT id, hash FROM subjects").all()
    )
    rows = [(record, int(block), people.get(record)) for record, block in enumerate(blocks)]
    connection.exec_driver_sql("INSERT INTO records VALUES (1, ?, ?, ?, NULL)", rows)
    sha = sha256(b"".join(hashes[person] for _, person in sorted(people.items())))
    part = (old["records"], old["blocks"], sha.digest() if people else None, old["made"])
    connection.exec_driver_sql("INSERT INTO parts VALUES (1, 0, ?, ?, ?, ?)", part)


def _make_tables() -> None:
    op.create_table(
        "records",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("record", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("subject", sa.Integer(), nullable=True),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("run", "record", name=op.f("pk_records")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_records_run_subject"), "records", ["run", "subject"], unique=False)
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("smallest_batch", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("subject_key", sa.LargeBinary(), nullable=True),
        sa.Column("content_key", sa.LargeBinary(), nullable=False),
        sa.Column("tombstones", sa.String(), nullable=True),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("made", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("name", name=op.f("uq_runs_name")),
    )
    op.create_table(
        "erasures",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("started", sa.String(), nullable=False),
        sa.Column("finished", sa.String(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_erasures_run")),
        sa.PrimaryKeyConstraint("run", "id", name=op.f("pk_erasures")),
    )
    op.create_table(
        "journal",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("time", sa.String(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_journal_run")),
        sa.PrimaryKeyConstraint("run", "number", name=op.f("pk_journal")),
    )
    op.create_table(
        "leases",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.String(), nullable=True),
        sa.Column("process", sa.String(), nullable=True),
        sa.Column("beat", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_leases_run")),
        sa.PrimaryKeyConstraint("run", name=op.f("pk_leases")),
    )
    op.create_table(
        "objects",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("made", sa.String(), nullable=False),
        sa.Column("destroyed", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_objects_run")),
        sa.PrimaryKeyConstraint("run", "key", name=op.f("pk_objects")),
    )
    op.create_index(op.f("ix_objects_run_state"), "objects", ["run", "state"], unique=False)
    op.create_table(
        "parts",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("blocks", sa.Integer(), nullable=False),
        sa.Column("subjects", sa.LargeBinary(), nullable=True),
        sa.Column("made", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_parts_run")),
        sa.PrimaryKeyConstraint("run", "part", name=op.f("pk_parts")),
    )
    op.create_table(
        "samples",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("record", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_samples_run")),
        sa.PrimaryKeyConstraint("run", "record", name=op.f("pk_samples")),
    )
    op.create_table(
        "subjects",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_subjects_run")),
        sa.PrimaryKeyConstraint("run", "id", name=op.f("pk_subjects")),
        sa.UniqueConstraint("run", "hash", name=op.f("uq_subjects_run_hash")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "chain",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("guarantee", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=True),
        sa.Column("loss", sa.Double(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("update", sa.String(), nullable=True),
        sa.Column("keyframe", sa.String(), nullable=True),
        sa.Column("optimizer", sa.String(), nullable=True),
        sa.Column("erasure", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run", "erasure"], ["erasures.run", "erasures.id"], name=op.f("fk_chain_run_erasure")
        ),
        sa.ForeignKeyConstraint(
            ["run", "keyframe"], ["objects.run", "objects.key"], name=op.f("fk_chain_run_keyframe")
        ),
        sa.ForeignKeyConstraint(
            ["run", "optimizer"],
            ["objects.run", "objects.key"],
            name=op.f("fk_chain_run_optimizer"),
        ),
        sa.ForeignKeyConstraint(
            ["run", "update"], ["objects.run", "objects.key"], name=op.f("fk_chain_run_update")
        ),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_chain_run")),
        sa.PrimaryKeyConstraint("run", "block", name=op.f("pk_chain")),
    )
    op.create_table(
        "erased",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("record", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("erasure", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run", "erasure"], ["erasures.run", "erasures.id"], name=op.f("fk_erased_run_erasure")
        ),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_erased_run")),
        sa.PrimaryKeyConstraint("run", "record", name=op.f("pk_erased")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_erased_run_erasure"), "erased", ["run", "erasure"], unique=False)
    op.create_table(
        "requests",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("received", sa.String(), nullable=False),
        sa.Column("due", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("erasure", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("closed", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run", "erasure"],
            ["erasures.run", "erasures.id"],
            name=op.f("fk_requests_run_erasure"),
        ),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_requests_run")),
        sa.PrimaryKeyConstraint("run", "id", name=op.f("pk_requests")),
    )
    op.create_index(op.f("ix_requests_run_state"), "requests", ["run", "state"], unique=False)
    op.create_table(
        "staged",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("guarantee", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=True),
        sa.Column("loss", sa.Double(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("update", sa.String(), nullable=True),
        sa.Column("keyframe", sa.String(), nullable=True),
        sa.Column("optimizer", sa.String(), nullable=True),
        sa.Column("erasure", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run", "erasure"], ["erasures.run", "erasures.id"], name=op.f("fk_staged_run_erasure")
        ),
        sa.ForeignKeyConstraint(
            ["run", "keyframe"], ["objects.run", "objects.key"], name=op.f("fk_staged_run_keyframe")
        ),
        sa.ForeignKeyConstraint(
            ["run", "optimizer"],
            ["objects.run", "objects.key"],
            name=op.f("fk_staged_run_optimizer"),
        ),
        sa.ForeignKeyConstraint(
            ["run", "update"], ["objects.run", "objects.key"], name=op.f("fk_staged_run_update")
        ),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_staged_run")),
        sa.PrimaryKeyConstraint("run", "block", name=op.f("pk_staged")),
    )
    op.create_table(
        "requested",
        sa.Column("run", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("request", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("record", sa.Integer(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["run", "request"],
            ["requests.run", "requests.id"],
            name=op.f("fk_requested_run_request"),
        ),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_requested_run")),
        sa.PrimaryKeyConstraint("run", "request", "record", name=op.f("pk_requested")),
        sqlite_with_rowid=False,
    )
