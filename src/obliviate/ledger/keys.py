"""Keys: those under which people and records are known, as the ledger keeps them."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from obliviate.ledger.database import damaged

if TYPE_CHECKING:
    from collections.abc import Callable

_CHECK_BYTES = 8


def in_the_clear(key: bytes, _purpose: str) -> bytes:
    """A key as it is kept where there is no master key."""
    return key


def with_check(kept: bytes) -> bytes:
    """A key with what tells that none of its bits turned over: under another, nobody is known."""
    return kept + sha256(kept).digest()[:_CHECK_BYTES]


def without_check(kept: bytes) -> bytes | None:
    """What `with_check` was given; None where bits of it turned over."""
    key = kept[:-_CHECK_BYTES]
    return key if with_check(key) == kept else None


class Keys:
    """The keys of one run; those of a sealed one can be read once it is unlocked."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._unwrap: Callable[[bytes, str], bytes] = in_the_clear
        self._read: dict[bytes, bytes] = {}

    def unlock(self, unwrap: Callable[[bytes, str], bytes]) -> None:
        """See `Ledger.unlock`."""
        self._unwrap = unwrap
        self._read.clear()

    def key(self, kept: bytes, purpose: str) -> bytes:
        """A key, from what is kept of it and what it is for.

        Raises:
            RunDamaged: It is not what was written.
        """
        if kept not in self._read:  # a service is asked once
            key = without_check(kept)
            if key is None:
                raise damaged(self._where, f"the key of {purpose} is not what was written")
            self._read[kept] = self._unwrap(key, purpose)
        return self._read[kept]
