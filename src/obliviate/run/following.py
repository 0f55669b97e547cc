"""Following: how a call that rank 0 carries out comes to its end on all ranks.

Rank 0 alone plans, decides and writes. The others wait for what it says: they take part in every
training, and at the end return what it returns, read from the run's folder, or raise what it
raises.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from obliviate.errors import (
    ForeignData,
    ForeignRecipe,
    InvalidOption,
    ObliviateError,
    RankLost,
    RunMissing,
    error_of,
)
from obliviate.events import finish
from obliviate.recipe.description import describe
from obliviate.recipe.recipe import Recipe, invalid
from obliviate.training.determinism import BITS_DEPEND_ON, environment_facts
from obliviate.training.ranks import called, gathered, told_of
from obliviate.training.sharing import TRAIN, start_of
from obliviate.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from obliviate.events import Event, Events
    from obliviate.training.protocol import BlockTrainer
    from obliviate.training.ranks import Message, Ranks

Result = TypeVar("Result")
Given = ParamSpec("Given")

_COMPARE, _RAISE, _RETURN = "compare", "raise", "return"
SHARED_FOLDER = "put it on a file system that all ranks see, under the same path"


class Follower(Protocol[Result]):
    """What a rank does for a call that rank 0 carries out; made of what the call was given."""

    def __init__(self, *given: Any, **named: Any) -> None: ...

    @property
    def words(self) -> Mapping[str, Any]:
        """What has to be the same on all ranks, beside what the call was given."""
        ...

    @property
    def recipe(self) -> Any:
        """By which recipe it trains."""
        ...

    def compared(self, words: Mapping[str, Any]) -> Mapping[str, Any]:
        """What has to be the same of a run that is about to be made."""
        ...

    def trainer(self, parts: int) -> BlockTrainer:
        """What trains on the records of so many parts."""
        ...

    def told(self, result: Result) -> Any:
        """What the others need to know of a result, for JSON."""
        ...

    def result(self, told: Any) -> Result:
        """The result on another rank."""
        ...


def led(
    follower: Callable[..., Follower[Result]],
) -> Callable[[Callable[Given, Events[Result]]], Callable[Given, Events[Result]]]:
    """Let a call be carried out by rank 0 where there are several ranks, which all call it.

    Args:
        follower: Made of what the call is given, on every rank.
    """

    def leading(events: Callable[Given, Events[Result]]) -> Callable[Given, Events[Result]]:
        @functools.wraps(events)
        def call(*args: Given.args, **kwargs: Given.kwargs) -> Events[Result]:
            ranks = gathered()
            if ranks is None:
                return (yield from events(*args, **kwargs))
            name = getattr(events, "__name__", "a call")
            given, named = [*map(_kept, args)], {key: _kept(each) for key, each in kwargs.items()}
            with ranks.called(name):
                its = follower(*given, **named)
                _agree_on_call(ranks, name, its)
                if not ranks.is_leader:
                    return (yield from _following(ranks, its))
                made: Any = events
                result: Result = yield from _leading(ranks, made(*given, **named), its)
                return result

        return call

    return leading


def led_at_once(
    follower: Callable[..., Follower[Result]],
) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """The same for a call that has no progress; see `led`."""

    def leading(call: Callable[Given, Result]) -> Callable[Given, Result]:
        @functools.wraps(call)
        def events(*args: Given.args, **kwargs: Given.kwargs) -> Events[Result]:
            yield from ()
            return call(*args, **kwargs)

        @functools.wraps(call)
        def at_once(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            result: Result = finish(led(follower)(events)(*args, **kwargs))
            return result

        return at_once

    return leading


def _kept(value: Any) -> Any:
    """What a call is given, to be looked at more than once."""
    return list(value) if isinstance(value, Iterator) else value


def words_of(**given: Any) -> dict[str, str]:
    """What a call was given, in words that are short and the same on all ranks."""
    told = {name: describe(value) for name, value in given.items()}
    return {
        name: value if len(value) < 64 else hashlib.sha256(value.encode()).hexdigest()  # noqa: PLR2004
        for name, value in told.items()
    }


# Before anything is written


def _agree_on_call(ranks: Ranks, name: str, follower: Follower[Any]) -> None:
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
        ranks.say({"do": _COMPARE, **told})
        _agree_on_words(ranks, words)


def _agree_on_words(ranks: Ranks, words: Callable[[], Mapping[str, Any]]) -> None:
    error: Exception | None = None
    found: dict[str, Any] = {}
    try:
        found = dict(words())
    except Exception as raised:
        error = raised
    ranks.agree(error, found, check=_difference)


# Rank 0


def _leading(
    ranks: Ranks, events: Events[Result], follower: Follower[Result]
) -> Generator[Event, None, Result]:
    try:
        result = yield from events
        told = follower.told(result)
        ranks.close()
    except GeneratorExit:
        _raise_on_others(ranks, ObliviateError(f"{ranks.task} was stopped on rank 0"))
        raise
    except Exception as error:
        _raise_on_others(ranks, error)
        raise
    except BaseException:
        ranks.leave()
        raise
    ranks.say({"do": _RETURN, "result": told})
    ranks.agree(None)
    return result


def _raise_on_others(ranks: Ranks, error: Exception) -> None:
    with contextlib.suppress(RankLost):
        ranks.close()
        ranks.say({"do": _RAISE, "error": told_of(error)})


# The others


def _following(ranks: Ranks, follower: Follower[Result]) -> Generator[Event, None, Result]:
    yield from ()  # rank 0 tells how far it has come
    try:
        while True:
            message = ranks.take(0)
            do = message.words["do"]
            if do == _RETURN:
                break
            if do == _RAISE:
                raise error_of(**message.words["error"])
            if do == TRAIN:
                _train(ranks, follower, message)
            elif do == _COMPARE:
                with contextlib.suppress(ObliviateError):  # rank 0 says what comes of it
                    _agree_on_words(ranks, functools.partial(follower.compared, message.words))
                ranks.check()
        return _result(ranks, follower, message.words["result"])
    except ObliviateError:
        raise
    except BaseException:
        ranks.leave()
        raise


def _train(ranks: Ranks, follower: Follower[Any], message: Message) -> None:
    """Take part in a training; what goes wrong in it is rank 0's to judge."""
    ranks.close()
    try:
        trainer = follower.trainer(message.words["parts"])
        start, erased = start_of(message)
        for _ in trainer.train(start, (), erased):
            pass
    except RankLost:
        raise
    except Exception as error:
        if ranks.sharing is None:  # the others do not know of it yet
            with contextlib.suppress(ObliviateError):
                ranks.agree(_unseen(error))
            ranks.check()
        elif not isinstance(error, ObliviateError):
            raise


def _unseen(error: Exception) -> Exception:
    if isinstance(error, RunMissing):
        return RunMissing(f"it does not see the run: {error.message}", hint=SHARED_FOLDER)
    return error


def _result(ranks: Ranks, follower: Follower[Result], told: Any) -> Result:
    error: Exception | None = None
    try:
        result = follower.result(told)
    except Exception as raised:
        error = _unseen(raised)
    ranks.agree(error)
    return result
