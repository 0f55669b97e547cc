"""Following: how a call that rank 0 carries out comes to its end on all ranks.

Rank 0 alone plans, decides and writes. The others wait for what it says: they take part in every
training, and at the end return what it returns, read from the run's folder, or raise what it
raises.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from obliviate.errors import ObliviateError, RankLost, RunMissing, error_of
from obliviate.events import finish
from obliviate.run.comparison import (
    COMPARE,
    LEFT_OUT,
    REHEARSE,
    agree_on_call,
    agree_on_words,
)
from obliviate.training.messages import told_of
from obliviate.training.ranks import gathered
from obliviate.training.rehearsal import rehearse
from obliviate.training.sharing import TRAIN, start_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from obliviate.events import Event, Events
    from obliviate.training.messages import Message
    from obliviate.training.protocol import BlockTrainer
    from obliviate.training.ranks import Ranks

Result = TypeVar("Result")
Given = ParamSpec("Given")

_RAISE, _RETURN = "raise", "return"
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

    def rehearse(self) -> None:
        """On rank 0: let all ranks make the first steps, where the call trains."""
        ...

    def rehearsed(self) -> BlockTrainer:
        """What makes the first steps on another rank."""
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
                agree_on_call(ranks, name, its)
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


# Rank 0


def _leading(
    ranks: Ranks, events: Events[Result], follower: Follower[Result]
) -> Generator[Event, None, Result]:
    try:
        follower.rehearse()
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
            elif do == COMPARE:
                with contextlib.suppress(ObliviateError):  # rank 0 says what comes of it
                    agree_on_words(ranks, functools.partial(follower.compared, message.words))
                ranks.check()
            elif do == REHEARSE:
                _rehearse(ranks, follower, message)
        return _result(ranks, follower, message.words["result"])
    except ObliviateError:
        raise
    except BaseException:
        ranks.leave()
        raise


def _rehearse(ranks: Ranks, follower: Follower[Any], message: Message) -> None:
    """Make the first steps with the others; rank 0 says what comes of it."""
    with contextlib.suppress(ObliviateError):
        try:
            trainer = follower.rehearsed()
        except Exception as error:
            ranks.agree(_unseen(error))
        else:
            rehearse(ranks, trainer, message.tensors[LEFT_OUT].numpy())
    ranks.check()


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
