"""The vault: immutable objects in a storage, checked against their hash when read."""

from __future__ import annotations

import re
import secrets
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

from obliviate.errors import REBUILD, RunDamaged
from obliviate.vault.frames import KEY_BYTES, FrameCipher, Plain, framed
from obliviate.vault.marker import MARKER_NAME, Marker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from obliviate.vault.seal import Seal
    from obliviate.vault.storage import Storage


_OURS = re.compile(r"[0-9a-f]{32}(\.part)?")
"""The names of objects, and of what a killed process had not finished."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One object of the vault, as the ledger knows it.

    Attributes:
        key: Its name in the vault; random, never used twice.
        size_bytes: Its length on disk.
        hash: BLAKE3 of its bytes on disk, in hex.
        sealed_key: The key it is encrypted with, wrapped by the master key; None where it is not.
    """

    key: str
    size_bytes: int
    hash: str
    sealed_key: bytes | None = None


class Vault:
    """Immutable objects in a storage.

    An object belongs to the run only once the ledger names it; what the ledger does not name is an
    orphan of a crash.

    Attributes:
        storage: Where they lie.
        fresh: The keys of what was written since this process began to write.
        announcing: What is done once, before the next object is written.
    """

    def __init__(self, storage: Storage, seal: Seal | None = None, identity: str = "") -> None:
        """Take up a storage.

        Args:
            storage: Where the objects lie.
            seal: The master key, where objects are encrypted.
            identity: What no other vault has: keys are bound to it.
        """
        self.storage, self._seal, self._identity = storage, seal, identity
        self.fresh: set[str] = set()
        self.announcing: Callable[[], None] | None = None
        self._unflushed: set[str] = set()
        self._lock = threading.Lock()  # several threads may write at once

    @property
    def is_sealed(self) -> bool:
        """Whether objects are encrypted."""
        return self._seal is not None

    def write(
        self,
        pieces: Iterable[bytes | memoryview],
        *,
        is_durable: bool = True,
        is_fast: bool = False,
    ) -> Stored:
        """Store plain bytes, given piece by piece, under a new key.

        Args:
            pieces: The item size of a memoryview is the width of its numbers; see `frames.framed`.
            is_durable: Whether it is on the disk from now on; else once `flush` was called, which
                has to be before the ledger names it.
            is_fast: Somebody waits for it; see `planes.packed`.

        Raises:
            StorageFull: There is no room, or no permission; nothing is left behind.
            StorageFailed, ConnectionLost: The storage cannot be reached for the moment.
            KeyMissing: The master key cannot be had.
        """
        key, cipher, sealed_key = uuid.uuid4().hex, None, None
        if self._seal is not None:
            data_key = secrets.token_bytes(KEY_BYTES)
            sealed_key = self._seal.wrap(data_key, self._context(key))
            cipher = FrameCipher(data_key, key)
        hasher, size_bytes = blake3(), 0

        def counted() -> Iterator[bytes | memoryview]:
            nonlocal size_bytes
            for piece in framed(pieces, cipher, is_fast=is_fast):
                hasher.update(piece)
                size_bytes += len(piece)
                yield piece

        self._announce()
        self.fresh.add(key)
        self.storage.write(key, counted(), is_durable=is_durable)
        if not is_durable:
            with self._lock:
                self._unflushed.add(key)
        return Stored(
            key=key, size_bytes=size_bytes, hash=hasher.hexdigest(), sealed_key=sealed_key
        )

    def flush(self) -> None:
        """Make durable whatever was written so far.

        Raises:
            StorageFull, StorageFailed: It cannot be done; nothing of it is left behind.
        """
        with self._lock:
            keys, self._unflushed = self._unflushed, set()
        if keys:
            self.storage.flush(keys)

    def read(self, stored: Stored) -> Plain:
        """The plain bytes of an object, once the hash of what is there has been checked.

        Raises:
            RunDamaged: It is missing, not what was written, or sealed where the vault is not, or
                the other way round.
            OtherFormat: Another version of Obliviate wrote it.
            KeyMissing, WrongKey: The master key cannot be had or is another.
            StorageFailed, ConnectionLost: The storage cannot be reached for the moment.
        """
        data = self.checked(stored)
        self._check_sealed(stored)
        if self._seal is None or stored.sealed_key is None:
            return Plain(data)
        data_key = self._seal.unwrap(stored.sealed_key, self._context(stored.key))
        return Plain(data, FrameCipher(data_key, stored.key))

    def _announce(self) -> None:
        with self._lock:
            if self.announcing is not None:
                self.announcing()
                self.announcing = None

    def _check_sealed(self, stored: Stored) -> None:
        # whoever can write to the ledger could put any object into a sealed vault otherwise
        if self.is_sealed != (stored.sealed_key is not None):
            form = "sealed, but not the object" if self.is_sealed else "not sealed, but the object"
            raise RunDamaged(
                f"the vault {self.storage.name} is {form} {stored.key}",
                hint="the ledger was changed from outside: `obliviate verify RUN` says what; "
                f"{REBUILD}",
            )

    def checked(self, stored: Stored) -> bytes:
        """The bytes of an object as they lie there, once their hash has been checked.

        Raises:
            RunDamaged: It is missing, or not what was written.
            StorageFailed, ConnectionLost: The storage cannot be reached for the moment.
        """
        data = self.storage.read(stored.key)
        if blake3(data).hexdigest() != stored.hash:
            raise RunDamaged(
                f"object {stored.key} in {self.storage.name} is not what was written: its hash "
                "differs",
                hint=REBUILD,
            )
        return data

    def wrapped(self, secret: bytes, purpose: str) -> bytes:
        """A secret of the run as it may be kept: wrapped by the master key, where there is one."""
        if self._seal is None:
            return secret
        return self._seal.wrap(secret, self._context(f"secret/{purpose}"))

    def unwrapped(self, wrapped: bytes, purpose: str) -> bytes:
        """A secret that `wrapped` made fit to be kept.

        Raises:
            WrongKey, KeyMissing: The master key is another, or cannot be had.
        """
        if self._seal is None:
            return wrapped
        return self._seal.unwrap(wrapped, self._context(f"secret/{purpose}"))

    def destroy(self, key: str) -> None:
        """Remove an object; one that is gone already is no error."""
        self.storage.destroy(key)

    def __iter__(self) -> Iterator[str]:
        """The keys of all objects there are, unfinished ones too; nothing that is not ours."""
        return (key for key in self.storage if _OURS.fullmatch(key))

    def foreign(self) -> set[str]:
        """The names of what else lies there: no object of any run, and never touched."""
        is_marker = {MARKER_NAME, f"{MARKER_NAME}.part"}
        names = {name for name in self.storage if not _OURS.fullmatch(name)}
        return (names | set(self.storage.others())) - is_marker

    def marker(self) -> Marker:
        """Whose vault this is, and what last wrote to it; see `Marker.of` for the errors."""
        return Marker.of(self.storage, self._identity)

    def mark(self, number: int, head: str) -> None:
        """Write down which entry of the journal its ledger has by now.

        Raises:
            StorageFull, StorageFailed, ConnectionLost: It cannot be written to.
        """
        Marker(vault=self._identity, number=number, head=head).write(self.storage)

    def _context(self, key: str) -> bytes:
        return f"{self._identity}/{key}".encode()
