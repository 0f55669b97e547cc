"""Streams: who asks to be forgotten, one after the other, drawn by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from obliviate.errors import InvalidOption, NothingLeft
from obliviate.recipe.deal import key, keyed_hash
from obliviate.text import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from obliviate.recipe.subjects import Subjects


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Requests to forget, in the order in which they come.

    The first ones are the same however many are drawn.

    Attributes:
        requests: The record ids of each, ascending; no record comes twice.
        noun: What each of them is: "person", "record", or "group of 20 records".
    """

    requests: tuple[tuple[int, ...], ...]
    noun: str

    def gone(self, count: int) -> NDArray[np.int64]:
        """The records of the first so many requests, ascending. Shape (n,)."""
        ids = [record for request in self.requests[:count] for record in request]
        return np.array(sorted(ids), dtype=np.int64)


def stream_of(
    people: Subjects | None, records: int, *, longest: int, size: int | None, seed: int
) -> Stream:
    """Draw a stream.

    Args:
        people: Whose each record is; None where that is not known.
        records: How many there are.
        longest: How many requests.
        size: How many records each of them names, whoever they belong to; a person's, or a single
            one where there are no people, if None.
        seed: Of the draw.

    Raises:
        InvalidOption: There are not so many people or records.
        NothingLeft: Nobody would be left.
    """
    if people is None or size is not None:
        each = size or 1
        requests = _pieces(records, longest, each, seed)
        noun = "record" if each == 1 else f"group of {each} records"
    else:
        requests, noun = _persons(people, longest, seed), "person"
    if len(requests) < longest:
        there = "people" if noun == "person" else f"{counted(records, 'record')}"
        raise InvalidOption(
            f"{counted(longest, 'request')} are asked for, each of a {noun}, but there are {there} "
            f"enough for {len(requests):,}",
            hint=f"give --requests {len(requests)} or fewer" if requests else "give a smaller size",
        )
    stream = Stream(requests=requests, noun=noun)
    if len(stream.gone(longest)) == records:
        raise NothingLeft(
            f"{counted(longest, 'request')} would erase all {records:,} records",
            hint="give fewer requests: somebody has to be left to train on",
        )
    return stream


def _pieces(records: int, longest: int, each: int, seed: int) -> tuple[tuple[int, ...], ...]:
    order = _shuffled(records, seed)[: longest * each]
    whole = len(order) // each
    return tuple(tuple(sorted(row)) for row in order[: whole * each].reshape(whole, each).tolist())


def _persons(people: Subjects, longest: int, seed: int) -> tuple[tuple[int, ...], ...]:
    names = list(people.names())
    chosen = [names[at] for at in _shuffled(len(names), seed).tolist()]
    own: dict[str, list[int]] = {name: [] for name in chosen}
    for record, whose in enumerate(people):
        for name in whose:
            own[name].append(record)
    taken: set[int] = set()
    requests: list[tuple[int, ...]] = []
    for name in chosen:
        its = [record for record in own[name] if record not in taken]
        if its and len(requests) < longest:
            requests.append(tuple(its))
            taken.update(its)
    return tuple(requests)


def _shuffled(count: int, seed: int) -> NDArray[np.int64]:
    hashes = keyed_hash(np.arange(count, dtype=np.int64), key(seed, "requests"))
    return np.argsort(hashes, kind="stable")
