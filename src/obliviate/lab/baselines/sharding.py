"""Sharding: who is placed in which shard and slice, for how long each is trained, what that costs.

Source: Bourtoule et al. 2021, "Machine Unlearning" (arXiv 1912.03817), sections on slicing, on
measuring time and on distribution-aware sharding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from obliviate.errors import InvalidOption
from obliviate.recipe.deal import key, keyed_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Placement:
    """Which shard and slice each record is in; who belongs together stays together.

    Attributes:
        slices: For each shard the record ids of each slice, ascending, none of them empty.
    """

    slices: tuple[tuple[NDArray[np.int64], ...], ...]

    @classmethod
    def of(
        cls,
        groups: NDArray[np.int64],
        *,
        shards: int,
        slices: int,
        seed: int,
        rates: NDArray[np.float64] | None = None,
    ) -> Placement:
        """Place all records.

        Without rates people are shuffled by keyed hashes and cut into shards of about one size.
        With rates those who hardly ever ask come first, and each shard gets about the same expected
        number of requests: few large shards that are seldom trained again, and small ones of those
        who ask often. In every shard who asks more often is in a later slice. A shard of fewer
        people than slices has a slice for each of them.

        Args:
            groups: The group of each record: those with one number stay together. Shape (n,).
            shards: How many shards.
            slices: Into how many slices each is cut, at most.
            seed: What the shuffle is keyed with.
            rates: How probable it is that each record is asked for. A group's is its highest. Shape
                (n,).

        Raises:
            InvalidOption: There are fewer people than shards.
        """
        names, of_record, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        if len(names) < shards:
            raise InvalidOption(
                f"shards is {shards}, but there are only {len(names)} people (or single records) "
                "to place",
                hint=f"give at most {len(names)}: nobody is split between shards",
            )
        asking = np.zeros(len(names))
        if rates is not None:
            np.maximum.at(asking, of_record, rates)
        order = np.lexsort((keyed_hash(names, key(seed, "shard")), asking))
        weights = sizes if rates is None else asking
        members = np.split(order, _starts(weights[order], shards))
        return cls(tuple(_sliced(some, of_record, sizes, slices) for some in members))

    def __len__(self) -> int:
        return len(self.slices)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """The shard, from 0, and the slice, from 1, of each record. Shape (n, 2)."""
        count = sum(len(each) for its in self.slices for each in its)
        places = np.empty((count, 2), dtype=np.int64)
        for shard, its in enumerate(self.slices):
            for number, ids in enumerate(its, start=1):
                places[ids] = shard, number
        return places

    @property
    def records(self) -> int:
        """How many records there are."""
        return len(self._places)

    @cached_property
    def digest(self) -> str:
        """What tells two placements apart."""
        return sha256(self._places.astype("<i8").tobytes()).hexdigest()

    def earliest(self, records: NDArray[np.int64]) -> dict[int, int]:
        """The shards that hold some of the records, from 0, and the first such slice, from 1."""
        found: dict[int, int] = {}
        for shard, number in self._places[records].tolist():
            found[shard] = min(number, found.get(shard, number))
        return dict(sorted(found.items()))


def _sliced(
    members: NDArray[np.int64],
    of_record: NDArray[np.int64],
    sizes: NDArray[np.int64],
    slices: int,
) -> tuple[NDArray[np.int64], ...]:
    """The records of a shard's slices; its members are places of groups, in their order."""
    slices = min(slices, len(members))
    number = np.full(len(sizes), -1, dtype=np.int64)
    for at, some in enumerate(np.split(members, _starts(sizes[members], slices))):
        number[some] = at
    its = number[of_record]
    return tuple(np.flatnonzero(its == at) for at in range(slices))


def _starts(weights: NDArray[np.float64] | NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Where to cut groups in a row into parts of about one weight, none of them empty.

    A group goes with the part that its middle lies in.
    """
    middles = np.cumsum(weights) - weights / 2
    numbers = np.arange(1, count, dtype=np.int64)
    starts = np.searchsorted(middles * count, numbers * np.sum(weights))
    apart = np.maximum.accumulate(np.maximum(starts, numbers) - numbers) + numbers
    cut: NDArray[np.int64] = np.minimum(apart, len(weights) - count + numbers)
    return cut


def slice_epochs(epochs: int, slices: int) -> tuple[int, ...]:
    """How many epochs each step is trained for, over its slice and all before it.

    2 * epochs / (slices + 1) each, as published, so that as many records are trained on as in
    `epochs` epochs of the whole shard. Fractions are carried over to the next step, as the authors'
    program does (github.com/cleverhans-lab/machine-unlearning, `sisa.py`).

    Raises:
        InvalidOption: A slice would not be trained on at all.
    """
    until = [2 * epochs * number // (slices + 1) for number in range(slices + 1)]
    found = tuple(int(each) for each in np.diff(until))
    if min(found) < 1:
        most = 2 * epochs - 1
        raise InvalidOption(
            f"{epochs} epochs are too few for slices={slices}: some would not be trained on",
            hint=f"give at most {most} slices, or more epochs",
        )
    return found


def retrained_share(shards: int, slices: int) -> float:
    """What one request, alike for all records, costs as a share of training all shards.

    (2/3 + 1 / (3 slices)) / shards: the affected shard alone, from the affected slice on. One over
    this is the expected speedup.
    """
    return (2 / 3 + 1 / (3 * slices)) / shards


def records_trained(sizes: Sequence[int], epochs: Sequence[int], first: int = 1) -> int:
    """How many records go through the steps of a shard, from one on; each epoch counts again.

    Args:
        sizes: How many records each slice has by now.
        epochs: How many epochs each step has; see `slice_epochs`.
        first: The step to begin with, from 1.
    """
    each = np.cumsum(sizes) * np.array(epochs)
    return int(each[first - 1 :].sum())
