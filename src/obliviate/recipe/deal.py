"""Dealing: which block of an epoch a record is trained on in, from keyed hashes alone.

In every epoch all records are dealt anew: an ordinary shuffle, in which neither the content of any
record matters nor who has been erased. People stay together: the records of a person lie side by
side in the shuffled order, so that forgetting somebody touches one block of an epoch. The order is
cut where a block is full. The cuts are kept as places in hash space, so that where a record is can
be found without looking at the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from obliviate.recipe.subjects import Subjects

_Number = TypeVar("_Number", np.int64, np.uint64)


def key(seed: int, *purpose: str | int) -> int:
    """A 64-bit key for one purpose, derived from the run's seed."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def keyed_hash(ids: NDArray[np.int64], key: int) -> NDArray[np.uint64]:
    """Hash each id under the key: two rounds of the splitmix64 finalizer, vectorized.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".

    Args:
        ids: Shape (n,).
        key: 64 bits, from `key`.

    Returns:
        Shape (n,), uniform over 64 bits.
    """
    value = ids.astype(np.uint64)
    for offset in (key, key ^ 0x9E3779B97F4A7C15):
        value = value + np.uint64(offset)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value = value ^ (value >> np.uint64(31))
    return value


def is_among(ids: NDArray[_Number], chosen: NDArray[_Number]) -> NDArray[np.bool_]:
    """Which ids are among sorted ones, however many these are. Shapes (n,), (m,) -> (n,)."""
    if not len(chosen):
        return np.zeros(len(ids), dtype=np.bool_)
    at = np.searchsorted(chosen, ids)
    is_there: NDArray[np.bool_] = chosen[np.minimum(at, len(chosen) - 1)] == ids
    return is_there


def groups_of(subjects: Subjects, first_record: int = 0) -> NDArray[np.int64]:
    """The group of each record: the id of the first record of the same person.

    A record of several people goes with the first named, one of nobody stands alone. The number
    says nothing of who it is: it may be kept when the person is forgotten.

    Args:
        subjects: Whose each record is.
        first_record: The id of the first one.

    Returns:
        Shape (n,).
    """
    first_of: dict[str, int] = {}
    return np.fromiter(
        (
            record if person is None else first_of.setdefault(person, record)
            for record, person in enumerate(subjects.first, start=first_record)
        ),
        dtype=np.int64,
        count=len(subjects),
    )


@dataclass(frozen=True)
class Deal:
    """How the records of one epoch are dealt to its blocks.

    Attributes:
        seed: What the epoch's hashes are keyed with.
        cuts: Where each block but the first begins, in hash space: the hashes of the group and of
            the record in its first place. Shape (blocks - 1, 2), uint64, as bytes.
        counts: How many records each block has. Shape (blocks,), int64, as bytes.
    """

    seed: int
    cuts: bytes
    counts: bytes

    @classmethod
    def of(
        cls, records: NDArray[np.int64], groups: NDArray[np.int64], blocks: int, seed: int
    ) -> Deal:
        """Deal records.

        A cut goes to the nearer end of the group that it would split, unless the group is larger
        than a block: such a person fills blocks that follow each other. So blocks differ in size by
        as much as the people do.

        Args:
            records: Their ids. Shape (n,).
            groups: The group of each. Shape (n,).
            blocks: How many blocks there are; at most n.
            seed: Of the epoch.
        """
        whose, count = keyed_hash(groups, seed), len(records)
        ordered = np.sort(whose)
        ideal = np.arange(1, blocks, dtype=np.int64) * count // blocks
        first = np.searchsorted(ordered, ordered[ideal], side="left")
        behind = np.searchsorted(ordered, ordered[ideal], side="right")
        nearer = np.where(ideal - first <= behind - ideal, first, behind)
        at = np.where((behind - first) * blocks > count, ideal, nearer)
        # two cuts that fall together, or onto an end, would leave a block empty
        is_empty = (at <= np.concatenate([[0], at])[:-1]) | (at >= count)
        at = np.where(is_empty, ideal, at)
        # only of groups that begin with a cut, or hold one, does it matter how they are ordered
        begun = ordered[at]
        some = is_among(whose, np.unique(begun))
        theirs, which = whose[some], keyed_hash(records[some], key(seed, "record"))
        order = np.lexsort((which, theirs))
        place = np.searchsorted(theirs[order], begun) + at - np.searchsorted(ordered, begun)
        cuts = np.stack([begun, which[order][place]], axis=1)
        counts = np.diff(at, prepend=0, append=count)
        return cls(seed, cuts.astype("<u8").tobytes(), counts.astype("<i8").tobytes())

    def is_over(self, records: int, blocks: int) -> bool:
        """Whether it deals so many records to so many blocks."""
        if (len(self.cuts), len(self.counts)) != (16 * (blocks - 1), 8 * blocks):
            return False
        return int(self.sizes.sum()) == records and bool((self.sizes >= 0).all())

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """How many records each block has. Shape (blocks,)."""
        return np.frombuffer(self.counts, dtype="<i8").astype(np.int64)

    @cached_property
    def _cuts(self) -> NDArray[np.uint64]:
        return np.frombuffer(self.cuts, dtype="<u8").reshape(-1, 2)

    def blocks_of(self, records: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """The block of each record in this epoch, from 0. Shapes (n,), (n,) -> (n,)."""
        whose, cuts = keyed_hash(groups, self.seed), self._cuts
        first = np.searchsorted(cuts[:, 0], whose, side="left")
        block = np.searchsorted(cuts[:, 0], whose, side="right")
        split = np.flatnonzero(first < block)  # a cut within these groups, or at their beginning
        for begin in np.unique(first[split]):
            rows = split[first[split] == begin]
            which = keyed_hash(records[rows], key(self.seed, "record"))
            inside = cuts[begin : block[rows[0]], 1]
            block[rows] = begin + np.searchsorted(inside, which, side="right")
        return block.astype(np.int64)
