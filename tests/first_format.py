"""Ledgers in the first format, 0001: one run in one file, before there was a journal."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from hashlib import sha256

DDL = """
CREATE TABLE runs (
    id INTEGER NOT NULL,
    format INTEGER NOT NULL,
    records INTEGER NOT NULL,
    blocks INTEGER NOT NULL,
    smallest_batch INTEGER NOT NULL,
    fingerprint JSON NOT NULL,
    environment JSON NOT NULL,
    subject_key BLOB NOT NULL,
    project JSON NOT NULL,
    made VARCHAR NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE samples (
    record INTEGER NOT NULL,
    content VARCHAR NOT NULL,
    PRIMARY KEY (record)
);
CREATE TABLE subjects (
    id INTEGER NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (hash)
);
CREATE TABLE objects (
    "key" VARCHAR NOT NULL,
    size_bytes INTEGER NOT NULL,
    sha256 VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    made VARCHAR NOT NULL,
    destroyed VARCHAR,
    PRIMARY KEY ("key")
);
CREATE INDEX ix_objects_state ON objects (state);
CREATE TABLE erasures (
    id INTEGER NOT NULL,
    state VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    method JSON NOT NULL,
    started VARCHAR NOT NULL,
    finished VARCHAR,
    outcome JSON NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX ix_erasures_state ON erasures (state);
CREATE TABLE records (
    record INTEGER NOT NULL,
    subject INTEGER NOT NULL,
    PRIMARY KEY (record),
    FOREIGN KEY(subject) REFERENCES subjects (id)
);
CREATE INDEX ix_records_subject ON records (subject);
CREATE TABLE chain (
    block INTEGER NOT NULL,
    origin VARCHAR NOT NULL,
    guarantee VARCHAR NOT NULL,
    digest VARCHAR,
    loss FLOAT,
    seconds FLOAT NOT NULL,
    "update" VARCHAR,
    keyframe VARCHAR,
    optimizer VARCHAR,
    erasure INTEGER,
    PRIMARY KEY (block),
    FOREIGN KEY("update") REFERENCES objects ("key"),
    FOREIGN KEY(keyframe) REFERENCES objects ("key"),
    FOREIGN KEY(optimizer) REFERENCES objects ("key"),
    FOREIGN KEY(erasure) REFERENCES erasures (id)
);
CREATE TABLE staged (
    erasure INTEGER NOT NULL,
    block INTEGER NOT NULL,
    origin VARCHAR NOT NULL,
    guarantee VARCHAR NOT NULL,
    digest VARCHAR,
    loss FLOAT,
    seconds FLOAT NOT NULL,
    "update" VARCHAR,
    keyframe VARCHAR,
    optimizer VARCHAR,
    PRIMARY KEY (erasure, block),
    FOREIGN KEY(erasure) REFERENCES erasures (id),
    FOREIGN KEY("update") REFERENCES objects ("key"),
    FOREIGN KEY(keyframe) REFERENCES objects ("key"),
    FOREIGN KEY(optimizer) REFERENCES objects ("key")
);
CREATE TABLE erased (
    record INTEGER NOT NULL,
    erasure INTEGER,
    PRIMARY KEY (record),
    FOREIGN KEY(erasure) REFERENCES erasures (id)
);
CREATE INDEX ix_erased_erasure ON erased (erasure);
"""

_ENTRY = 'block, origin, guarantee, digest, loss, seconds, "update", keyframe, optimizer, erasure'
_KEPT = {
    "samples": "record, content",
    "subjects": "id, hash",
    "objects": "key, size_bytes, hash, state, made, destroyed",
    "erasures": "id, state, kind, method, started, finished, outcome",
    "erased": "record, erasure",
    "chain": _ENTRY,
    "staged": _ENTRY,
}


def set_back(folder) -> None:
    """Put the ledger of a run into the first format, row by row.

    In that format one key served for subjects and samples, and journals and requests were unknown.
    The samples have to have been hashed under the subject key.
    """
    old, new = folder / "ledger.sqlite", folder / "ledger.newer"
    with closing(sqlite3.connect(old)) as raw:
        raw.execute("PRAGMA journal_mode=DELETE")
    shutil.move(old, new)
    with closing(sqlite3.connect(old)) as raw:
        raw.execute("PRAGMA journal_mode=WAL")
        raw.executescript(DDL)
        raw.execute("ATTACH ? AS newer", [str(new)])
        with raw:
            raw.execute(
                "INSERT INTO runs SELECT 1, 1, (SELECT sum(records) FROM newer.parts), "
                "(SELECT sum(blocks) FROM newer.parts), smallest_batch, fingerprint, environment, "
                "subject_key, project, made FROM newer.runs"
            )
            for name, columns in _KEPT.items():
                named = columns.replace("hash,", "sha256,") if name == "objects" else columns
                raw.execute(f"INSERT INTO {name} ({named}) SELECT {columns} FROM newer.{name}")
            raw.executemany(
                "UPDATE objects SET sha256 = ? WHERE key = ?",
                [
                    (sha256(path.read_bytes()).hexdigest(), path.name)
                    for path in (folder / "vault").glob("*")
                ],
            )
            raw.execute("UPDATE objects SET sha256 = replace(sha256, 'sha256:', '')")
            raw.execute(
                "INSERT INTO records SELECT record, subject FROM newer.records "
                "WHERE subject IS NOT NULL"
            )
    new.unlink()
