"""Comparison: before anything is written, what all ranks were called for has to be the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from obliviate.errors import ForeignData, ForeignRecipe, InvalidOption, ObliviateError
from obliviate.recipe.description import describe
from obliviate.recipe.recipe import Recipe
from obliviate.run.fingerprint import likeness
from obliviate.training.determinism import BITS_DEPEND_ON, environment_facts
from obliviate.training.ranks import called
from obliviate.training.rehearsal import rehearse
from obliviate.training.shareable import check_model, check_recipe
from obliviate.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from obliviate.run.following import Follower
    from obliviate.training.messages import Message
    from obliviate.training.protocol import BlockTrainer
    from obliviate.training.ranks import Ranks

COMPARE, REHEARSE = "compare", "rehearse"
"""What rank 0 says before a run is made, and before it is trained on."""

LEFT_OUT = "left out"
"""Goes with the latter: the ids of records that are not to be read."""


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
            check_recipe(recipe, ranks.size)
            words["environment"] = environment_facts(recipe.device, recipe.workers)
    except Exception as raised:
        error = raised
    ranks.agree(error, words, check=_difference)


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


def agreed_trainer(
    make: Callable[[], BlockTrainer], left_out: NDArray[np.int64], **told: Any
) -> BlockTrainer:
    """The trainer of a run that is about to be made, the same on all ranks that are called for it.

    Args:
        make: Makes it; all ranks make theirs at the same time.
        left_out: Sorted ids of records to leave out.
        told: What the others need to know to make theirs.

    Raises:
        ObliviateError: The ranks have not the same, or one of them cannot make it; on all alike.
    """
    ranks = called()
    if ranks is None:
        return make()
    made: list[BlockTrainer] = []

    def words() -> Mapping[str, Any]:
        made.append(make())
        return words_before(made[0], left_out)

    ranks.say({"do": COMPARE, **told})
    agree_on_words(ranks, words)
    return made[0]


def words_before(trainer: BlockTrainer, left_out: NDArray[np.int64]) -> Mapping[str, Any]:
    """What has to be the same on all ranks before a run is made.

    Raises:
        InvalidRecipe: The model exchanges by itself: alone, it would wait for ever.
    """
    check_model(trainer.model)
    return likeness(trainer, left_out)


def rehearse_all(trainer: BlockTrainer, left_out: NDArray[np.int64]) -> None:
    """Let all ranks make the first steps together, where several are called; see `rehearse`.

    Args:
        trainer: What trains on rank 0.
        left_out: Sorted ids of records that are not to be read.
    """
    ranks = called()
    if ranks is not None:
        ids = torch.from_numpy(np.array(left_out, dtype=np.int64))
        ranks.say({"do": REHEARSE}, {LEFT_OUT: ids})
        rehearse(ranks, trainer, left_out)


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
