"""Tombstones: keyed hashes of the content of erased records, so that they do not come back.

They are kept apart from any run, in a file that many runs may share. Nothing can be read off a
tombstone; it can only be recognised, by whoever has the content and the file. A run remembers a
hash of the file's key, so that no other file, and no empty one, takes its place unseen.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy import delete as sql_delete

from obliviate.clock import stamp
from obliviate.disk.paths import naming
from obliviate.errors import InvalidOption, RunDamaged, TombstonesDamaged, TombstonesLost
from obliviate.ledger.change import batched
from obliviate.ledger.database import Database

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from sqlalchemy import ColumnElement, Connection

HASH_BYTES = 16

metadata = MetaData()
keys = Table(
    "tombstone_keys",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("total", LargeBinary, nullable=False),  # of the checks of all rows, by XOR
)
tombstones = Table(
    "tombstones",
    metadata,
    Column("run", LargeBinary, primary_key=True),  # keyed hash of the name of the run
    Column("record", Integer, primary_key=True, autoincrement=False),
    Column("content", LargeBinary, nullable=False),
    Column("people", LargeBinary, nullable=False),  # of each a hash; nobody's: anyone's
    Column("erasure", String, nullable=False),  # of the run
    Column("made", String, nullable=False),
    Column("lifted", String),
    Column("reason", String),
    Column("check", LargeBinary, nullable=False),
)
_IS_STANDING = tombstones.c.lifted.is_(None)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What tombstones recognise.

    Attributes:
        persons: Contents, each with a person it belonged to.
        anyones: Contents of tombstones that name nobody.
        contents: The contents of all.
    """

    persons: frozenset[bytes]
    anyones: frozenset[bytes]
    contents: frozenset[bytes]

    def has(self, mark: bytes) -> bool:
        """Whether a record was erased before, by its mark: see `Tombstones.mark`."""
        content, people = parted(mark)
        if not people:  # nobody knows whose it is: then it may be anyone's
            return content in self.contents
        return content in self.anyones or any(content + each in self.persons for each in people)


def parted(mark: bytes) -> tuple[bytes, set[bytes]]:
    """The content of a mark, and its people."""
    starts = range(HASH_BYTES, len(mark), HASH_BYTES)
    return mark[:HASH_BYTES], {mark[start : start + HASH_BYTES] for start in starts}


class Tombstones:
    """A file of tombstones."""

    def __init__(self, path: Path, identity: str | None = None) -> None:
        """Open a file of tombstones.

        Args:
            path: Where it is.
            identity: See `identity`: the file has to be there and to be this very one. If None, it
                is made if it is not there.

        Raises:
            InvalidOption: The file is something else.
            TombstonesLost: It is not there, or it is another one.
            StorageFull: It cannot be written to.
        """
        self.path = path
        if identity is not None and not path.is_file():
            raise _lost(path, "is not there")
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = Database.file(path)
        try:
            self._key = self._known_key() or (b"" if identity else self._made())
        except RunDamaged as error:
            self.close()
            if identity is None:
                raise InvalidOption(
                    f"{path} is no file of tombstones", hint="give one, or a path that is free"
                ) from error
            raise _damaged(path, "it cannot be read") from error
        if identity not in (None, self.identity):
            self.close()
            raise _lost(path, "is another file than the one that the run was made with")

    @property
    def identity(self) -> str:
        """A hash of the file's key: what a run knows the file by."""
        return hashlib.sha256(b"obliviate tombstones" + self._key).hexdigest()[:32]

    def _known_key(self) -> bytes | None:
        with self._database.reading() as connection:
            names = inspect(connection).get_table_names()
            if names and keys.name not in names:
                raise InvalidOption(
                    f"{self.path} is no file of tombstones but has a table {names[0]}",
                    hint="give one, or a path that is free",
                )
            found = connection.execute(select(keys.c.key)).scalar() if names else None
            return None if found is None else bytes(found)

    def _made(self) -> bytes:
        with self._database.writing() as connection:
            metadata.create_all(connection)
            if connection.execute(select(keys.c.key)).first() is None:
                values = {"key": secrets.token_bytes(32), "total": bytes(HASH_BYTES)}
                connection.execute(insert(keys), values)
            return bytes(connection.execute(select(keys.c.key)).scalar_one())

    # Hashes

    def _hash(self, purpose: str, pieces: Iterable[bytes | memoryview]) -> bytes:
        """A keyed hash (HMAC-SHA256, 16 bytes)."""
        mac = hmac.new(self._key, purpose.encode() + b"\0", digestmod=hashlib.sha256)
        for piece in pieces:
            mac.update(piece)
        return mac.digest()[:HASH_BYTES]

    def mark(self, content: Iterable[bytes | memoryview], people: Iterable[str]) -> bytes:
        """What a record is known by: its content and, where that is given, whose it is."""
        return self._hash("content", content) + b"".join(sorted(map(self.person, people)))

    def person(self, subject: str) -> bytes:
        """What a person is known by."""
        return self._hash("person", [subject.encode(errors="surrogatepass")])

    def _run(self, name: str) -> bytes:
        return self._hash("run", [name.encode()])

    def _check(self, row: Mapping[str, Any]) -> bytes:
        values = [row[column.name] for column in tombstones.c if column.name != "check"]
        return self._hash("row", [repr(values).encode()])

    # Reading

    def known(self) -> Known:
        """What the tombstones that stand recognise.

        Raises:
            TombstonesDamaged: The file is not what was written.
        """
        with self._reading() as connection:
            rows = list(self._rows(connection))
            total = bytes(connection.execute(select(keys.c.total)).scalar_one())
        if _sum(row["check"] for row in rows) != total:
            raise _damaged(self.path, "rows were removed or added from outside")
        standing = [row for row in rows if row["lifted"] is None]
        return Known(
            persons=frozenset(
                row["content"] + each for row in standing for each in parted(_mark(row))[1]
            ),
            anyones=frozenset(row["content"] for row in standing if not row["people"]),
            contents=frozenset(row["content"] for row in standing),
        )

    def of_run(self, name: str) -> dict[int, bytes]:
        """The marks of the records that a run has erased, by record; without those lifted."""
        with self._reading() as connection:
            rows = self._rows(connection, tombstones.c.run == self._run(name), _IS_STANDING)
            return {row["record"]: _mark(row) for row in rows}

    def _rows(
        self, connection: Connection, *conditions: ColumnElement[bool]
    ) -> Iterator[dict[str, Any]]:
        for found in connection.execute(select(tombstones).where(*conditions)).mappings():
            row = dict(found)
            if self._check(row) != row["check"]:
                raise _damaged(self.path, f"the tombstone of record {row['record']} was changed")
            yield row

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._database.reading() as connection:
                yield connection
        except RunDamaged as error:
            raise _damaged(self.path, error.message) from error

    # Writing

    def add(self, name: str, erasure: str, marks: Mapping[int, bytes]) -> None:
        """Set the tombstones of an erasure; those that stand already stay as they are.

        Args:
            name: Of the run.
            erasure: What tells the erasure from any other of the run.
            marks: What each record is known by.
        """
        run = self._run(name)
        with self._changing() as connection:
            mine = list(self._rows(connection, tombstones.c.run == run))
            standing = {row["record"] for row in mine if row["lifted"] is None}
            lifted = [row["record"] for row in mine if row["lifted"] and row["record"] in marks]
            self._delete(connection, run, lifted)  # erased once more, since consent was given
            rows = [
                {
                    "run": run,
                    "record": record,
                    "content": mark[:HASH_BYTES],
                    "people": mark[HASH_BYTES:],
                    "erasure": erasure,
                    "made": stamp(),
                    "lifted": None,
                    "reason": None,
                }
                for record, mark in marks.items()
                if record not in standing
            ]
            for some in batched([row | {"check": self._check(row)} for row in rows]):
                connection.execute(insert(tombstones), list(some))

    def take_back(self, name: str, erasure: str) -> None:
        """Remove the tombstones of an erasure that was not carried out."""
        run = self._run(name)
        with self._changing() as connection:
            is_its = (tombstones.c.run == run) & (tombstones.c.erasure == erasure)
            records = [row["record"] for row in self._rows(connection, is_its)]
            self._delete(connection, run, records)

    def lift(self, marks: Collection[bytes], persons: Collection[bytes], reason: str) -> int:
        """Lift tombstones: what they recognised may be trained on again.

        Args:
            marks: Of records: lifted are those of the same content and person.
            persons: All of whose tombstones are lifted.
            reason: Why; it is kept.

        Returns:
            How many were lifted.
        """
        with self._changing() as connection:
            rows = [
                row
                for row in self._rows(connection, _IS_STANDING)
                if _is_lifted(_mark(row), marks, persons)
            ]
            for row in rows:
                changed = row | {"lifted": stamp(), "reason": reason}
                is_it = (tombstones.c.run == row["run"]) & (tombstones.c.record == row["record"])
                values = changed | {"check": self._check(changed)}
                connection.execute(update(tombstones).where(is_it).values(values))
        return len(rows)

    @staticmethod
    def _delete(connection: Connection, run: bytes, records: Iterable[int]) -> None:
        for some in batched(list(records)):
            is_one = (tombstones.c.run == run) & tombstones.c.record.in_(some)
            connection.execute(sql_delete(tombstones).where(is_one))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Connection]:
        """One transaction; the sum of all checks goes along with whatever is changed in it."""
        checks = select(tombstones.c.check)
        try:
            with self._database.writing() as connection:
                before = _sum(connection.execute(checks).scalars())
                yield connection
                after = _sum(connection.execute(checks).scalars())
                total = bytes(connection.execute(select(keys.c.total)).scalar_one())
                # what was missing before goes on missing: it is named by whoever reads all
                connection.execute(update(keys).values(total=_sum([total, before, after])))
        except RunDamaged as error:
            raise _damaged(self.path, error.message) from error

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _mark(row: Mapping[str, Any]) -> bytes:
    return bytes(row["content"] + row["people"])


def _is_lifted(mark: bytes, marks: Collection[bytes], persons: Collection[bytes]) -> bool:
    content, people = parted(mark)
    return not people.isdisjoint(persons) or any(
        content == other[:HASH_BYTES] and (not people or not people.isdisjoint(parted(other)[1]))
        for other in marks
    )


def _sum(checks: Iterable[bytes]) -> bytes:
    total = 0
    for check in checks:
        total ^= int.from_bytes(check, "big")
    return total.to_bytes(HASH_BYTES, "big")


def _lost(path: Path, reason: str) -> TombstonesLost:
    return TombstonesLost(
        f"the file of tombstones {path} {reason}",
        hint="put the file back that the run was made with (is a drive not mounted?): without it, "
        "whoever is erased could come back unseen",
    )


def _damaged(path: Path, reason: str) -> TombstonesDamaged:
    return TombstonesDamaged(
        f"the file of tombstones {path} is damaged: {reason}", hint="restore it from a copy"
    )


@contextlib.contextmanager
def opened(options: Mapping[str, str]) -> Iterator[Tombstones]:
    """The file of tombstones of a run; the very one that it was made with.

    Raises:
        TombstonesLost, TombstonesDamaged: It is not.
    """
    tombstones = Tombstones(Path(options["file"]), options.get("identity"))
    try:
        yield tombstones
    finally:
        tombstones.close()
