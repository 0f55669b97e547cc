"""Comparison: before anything is written, what all ranks were called for has to be the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from obliviate.errors import ForeignData, ForeignRecipe, InvalidOption, ObliviateError
from obliviate.recipe.description import describe
from obliviate.recipe.recipe import Recipe, invalid
from obliviate.training.determinism import BITS_DEPEND_ON, environment_facts
from obliviate.training.ranks import called
from obliviate.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from obliviate.run.following import Follower
    from obliviate.training.ranks import Message, Ranks

COMPARE = "compare"
"""What rank 0 says before a run is made."""


def words_of(**given: Any) -> dict[str, str]:
    """What a call was given, in words that are short and the same on all ranks."""
    told = {name: describe(value) for name, value in given.items()}
    return {
        name: value if len(value) < 64 else hashlib.sha256(value.encode()).hexdigest()  # noqa: PLR2004
        for name, value in told.items()
    }


def agree_on_call(ranks: Ranks, name: str, follower: Follower[Any]) -> None:
    """See that all ranks were called for the same thing, and with the same.

    Raises:
        ObliviateError: They were not, or one of them cannot do it; on all ranks alike.
    """
    error: Exception | None = None
    words: dict[str, Any] = {"call": name, "version": __version__}
    try:
        words |= follower.words
        recipe = follower.recipe
        if isinstance(recipe, Recipe):
            _check_shareable(recipe, ranks.size)
            words["environment"] = environment_facts(recipe.device, recipe.workers)
    except Exception as raised:
        error = raised
    ranks.agree(error, words, check=_difference)


def _check_shareable(recipe: Recipe, ranks: int) -> None:
    """See that training can be shared out.

    Raises:
        InvalidRecipe: It cannot; every fault in one message.
    """
    count, faults = recipe.microbatches, []
    if recipe.trainer is not None:
        faults.append(f"{type(recipe).__name__} trains by a trainer of its own; take one process")
    elif recipe.is_manual:
        faults.append("step takes optimizers, and makes its own steps; take one process")
    elif count % ranks:
        fitting = [str(each) for each in range(2, count + 1) if not count % each]
        also = f", or take {' or '.join(fitting)} ranks" if fitting else ""
        faults.append(
            f"microbatches is {count}, which {ranks} ranks cannot share out; give a multiple of "
            f"{ranks}{also}"
        )
    elif recipe.accumulation != "tree":
        faults.append(
            'accumulation is "sequence", one after the other; only "tree" can be shared out'
        )
    if faults:
        raise invalid(faults)


def _difference(told: Sequence[Message]) -> ObliviateError | None:
    """What some rank was called for, or with, that rank 0 was not."""
    first = told[0].words
    for rank, each in enumerate(told):
        for name in sorted((first.keys() | each.words.keys()) - {"error"}):
            if first.get(name) != each.words.get(name):
                return _unlike(rank, name, first.get(name), each.words.get(name))
    return None


def _unlike(rank: int, name: str, first: Any, other: Any) -> ObliviateError:
    if isinstance(first, dict) and isinstance(other, dict):
        which = next(key for key in {**first, **other} if first.get(key) != other.get(key))
        first, other, name = first.get(which), other.get(which), f"{name}: {which}"
    what = f"rank {rank} has {name} {_short(other)}, rank 0 has {_short(first)}"
    kind = name.partition(":")[0]
    if kind == "call":
        return InvalidOption(
            f"rank {rank} calls {other}, rank 0 calls {first}",
            hint="let all ranks make the same calls in the same order",
        )
    if kind == "recipe":
        return ForeignRecipe(what, hint="give the same recipe on all ranks")
    if kind == "data":
        what = f"rank {rank} has other data than rank 0: {name.removeprefix('data: ')} differs"
        return ForeignData(what, hint="give the same data, in the same order, on all ranks")
    if kind == "environment" and name.rpartition(": ")[2] in BITS_DEPEND_ON:
        return InvalidOption(what, hint="take machines of one kind, with the same libraries")
    return InvalidOption(what, hint="give the same on all ranks")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."  # noqa: PLR2004


def agree_on_making(words: Callable[[], Mapping[str, Any]], **told: Any) -> None:
    """See that all ranks are about to make the same run, where several are called for it.

    Args:
        words: What has to be the same.
        told: What the others need to know to find theirs.
    """
    ranks = called()
    if ranks is not None:
        ranks.say({"do": COMPARE, **told})
        agree_on_words(ranks, words)


def agree_on_words(ranks: Ranks, words: Callable[[], Mapping[str, Any]]) -> None:
    """See that all ranks have the same words; all call it at the same time.

    Raises:
        ObliviateError: They have not, or one of them cannot say; on all ranks alike.
    """
    error: Exception | None = None
    found: dict[str, Any] = {}
    try:
        found = dict(words())
    except Exception as raised:
        error = raised
    ranks.agree(error, found, check=_difference)
