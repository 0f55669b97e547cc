"""Contents: what the records of a block were when they were trained on, so that a change is seen.

A record that was corrected in place, or that moved when a table was exported anew, makes a replay
another training. While a block is trained on, each of its records is hashed under the run's secret
key, as it was fetched on the first way through; a replay hashes what it fetches and compares. Slots
of erased records hold nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Hashes = NDArray[np.uint32]
"""One number for each record of a block, in the order of `Layout.members`; 0 where none is known.

4 bytes a record and epoch: of changes that nobody makes on purpose, all are seen but one in four
billion.
"""

NOTHING: Hashes = np.empty(0, dtype=np.uint32)
_WORD_BYTES = 8
_LARGE_BYTES = 1 << 22


def hashed(
    form: Sequence[bytes | memoryview], rows: Sequence[NDArray[np.uint8]], key: bytes
) -> Hashes:
    """The keyed hashes of records: a sum of products with secret odd numbers, then mixed.

    Such a sum (multilinear hashing: Lemire and Kaser, Strongly Universal String Hashing is Fast) is
    worked out for a whole batch at once, where a cryptographic hash is called for each record.

    Args:
        form: What the records are beside their numbers, the same for all of them: kinds, shapes.
        rows: The bytes of each, piece by piece. Shape (n, size) each.
        key: The secret; 32 bytes.
    """
    start = int.from_bytes(blake3(b"\0".join(form), key=key).digest(length=_WORD_BYTES), "little")
    found = np.full(len(rows[0]) if rows else 1, start, dtype=np.uint64)
    words = [_words(each) for each in rows]
    factors, at = _factors(key, 2 + sum(each.shape[1] for each in words)), 2
    for each in words:
        found += each @ factors[at : at + each.shape[1]]
        at += each.shape[1]
    for factor in factors[:2]:  # the sum of two records tells nothing of the hash of a third
        found ^= found >> np.uint64(32)
        found *= factor
    upper = (found >> np.uint64(32)).astype(np.uint32)
    return np.maximum(upper, np.uint32(1))  # 0 says that nothing is known


def _words(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    if rows.shape[1] > _LARGE_BYTES:  # as many factors would have to be kept
        digests = b"".join(blake3(row).digest() for row in rows)
        rows = np.frombuffer(digests, np.uint8).reshape(len(rows), -1)
    missing = -rows.shape[1] % _WORD_BYTES
    whole = np.pad(rows, ((0, 0), (0, missing))) if missing else np.ascontiguousarray(rows)
    return whole.view("<u8").astype(np.uint64, copy=False)


def _factors(key: bytes, count: int) -> NDArray[np.uint64]:
    """So many secret odd numbers, the same ones however many are asked for."""
    return _some_factors(key, 1 << (count - 1).bit_length())[:count]


@lru_cache(maxsize=4)
def _some_factors(key: bytes, count: int) -> NDArray[np.uint64]:
    secret = blake3(b"factors", key=key).digest(length=count * _WORD_BYTES)
    return np.frombuffer(secret, "<u8").astype(np.uint64) | np.uint64(1)


def packed(hashes: Hashes) -> bytes:
    """As the ledger keeps them."""
    return hashes.astype("<u4").tobytes()


def unpacked(kept: bytes) -> Hashes:
    """What `packed` made."""
    return np.frombuffer(kept, dtype="<u4").astype(np.uint32)


def placed(
    hashes: Hashes, members: NDArray[np.int64], records: NDArray[np.int64], found: Hashes
) -> None:
    """Put the hashes of some records of a block into their places.

    Args:
        hashes: Of the block; changed. Shape (n,).
        members: The records of the block. Shape (n,).
        records: Some of them. Shape (m,).
        found: Their hashes. Shape (m,).
    """
    order = np.argsort(members)
    hashes[order[np.searchsorted(members, records, sorter=order)]] = found


def without(hashes: Hashes, members: NDArray[np.int64], erased: NDArray[np.int64]) -> Hashes:
    """The hashes of a block less those of erased records."""
    return np.where(np.isin(members, erased), np.uint32(0), hashes) if len(hashes) else hashes


def changed(known: Hashes, found: Hashes, members: NDArray[np.int64]) -> NDArray[np.int64]:
    """The records of a block whose content is not what it was; sorted. Shape (m,)."""
    if len(known) != len(found):
        return np.empty(0, dtype=np.int64)
    return np.sort(members[(known != 0) & (found != 0) & (known != found)])
