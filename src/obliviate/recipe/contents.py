"""Contents: what the records of a block were when they were trained on, so that a change is seen.

A record that was corrected in place, or that moved when a table was exported anew, makes a replay
another training. While a block is trained on, each of its records is hashed under the run's secret
key, as it was fetched on the first way through; a replay hashes what it fetches and compares. Slots
of erased records hold nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint32]
"""One number for each record of a block, in the order of `Layout.members`; 0 where none is known.

4 bytes a record and epoch: of changes that nobody makes on purpose, all are seen but one in four
billion.
"""

HASH_BYTES = 4
NOTHING: Hashes = np.empty(0, dtype=np.uint32)


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
