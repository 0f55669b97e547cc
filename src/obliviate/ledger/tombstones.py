"""Tombstones: keyed hashes of the content of erased records, so that they do not come back.

They are kept apart from any run, in a file that many runs may share. Nothing can be read off a
tombstone; it can only be recognised, by whoever has the content and the file.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING

from sqlalchemy import Column, LargeBinary, MetaData, String, Table, insert, select
from sqlalchemy.exc import DatabaseError

from obliviate.clock import stamp
from obliviate.disk import naming
from obliviate.errors import InvalidOption
from obliviate.ledger.change import batched
from obliviate.ledger.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sqlalchemy import Connection

metadata = MetaData()
keys = Table("tombstone_keys", metadata, Column("key", LargeBinary, primary_key=True))
tombstones = Table(
    "tombstones",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("made", String, nullable=False),
)


class Tombstones:
    """A file of tombstones."""

    def __init__(self, path: Path) -> None:
        """Open a file of tombstones; it is made if it is not there.

        Raises:
            InvalidOption: The file is something else.
            StorageFull: It cannot be written to.
        """
        self.path = path
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = Database.file(path)
        try:
            with self._database.writing() as connection:
                metadata.create_all(connection)
                if connection.execute(select(keys.c.key)).first() is None:
                    connection.execute(insert(keys), {"key": secrets.token_bytes(32)})
                self._key = connection.execute(select(keys.c.key)).scalar_one()
        except Exception as error:
            if isinstance(error.__cause__, DatabaseError) and "cannot be read" in str(error):
                raise InvalidOption(
                    f"{path} is no file of tombstones", hint="give one, or a path that is free"
                ) from error
            raise

    def hash_of(self, content: Iterable[bytes | memoryview]) -> bytes:
        """The keyed hash of a record's content (HMAC-SHA256, 16 bytes)."""
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for piece in content:
            mac.update(piece)
        return mac.digest()[:16]

    def add(self, hashes: Sequence[bytes]) -> None:
        """Set tombstones; those that stand already stay."""
        with self._database.writing() as connection:
            known = self._known(connection)
            fresh = [each for each in dict.fromkeys(hashes) if each not in known]
            for some in batched(fresh):
                rows = [{"hash": each, "made": stamp()} for each in some]
                connection.execute(insert(tombstones), rows)

    def all(self) -> set[bytes]:
        """All tombstones."""
        with self._database.reading() as connection:
            return self._known(connection)

    def _known(self, connection: Connection) -> set[bytes]:
        return set(connection.execute(select(tombstones.c.hash)).scalars())

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
