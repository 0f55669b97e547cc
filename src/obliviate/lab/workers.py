"""Crew: the processes that carry out trials side by side, each with a project of its own."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING

import torch

from obliviate.errors import InvalidOption, ObliviateError
from obliviate.lab.trials import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from obliviate.lab.experiment import Question
    from obliviate.lab.trials import Trial
    from obliviate.recipe.recipe import Project

    Source = Callable[[], Project]

_SECONDS_BETWEEN_LOOKS = 1.0
_bench: Bench | None = None  # of this process, if it is a worker: made once, used for every trial


def check_source(source: object) -> None:
    """See that other processes can make the project.

    Raises:
        InvalidOption: They cannot.
    """
    hint = "give a function, defined at the top level of a module, that returns the project"
    if not callable(source):
        raise InvalidOption(
            "several workers need to make the project each for itself", hint=f"{hint}; or workers=1"
        )
    try:
        ForkingPickler.dumps(source)
    except Exception as error:
        raise InvalidOption(
            f"{source!r} cannot be handed to another process: {error}", hint=f"{hint}; or workers=1"
        ) from error


def working(
    source: Source,
    question: Question,
    folder: Path,
    trials: Sequence[Trial],
    *,
    workers: int,
    keeps: bool,
) -> Iterator[None]:
    """Carry out trials in other processes; yield now and then, for somebody to look at the cells.

    Raises:
        ObliviateError: A trial failed; those that had begun have come to their end.
    """
    pool = ProcessPoolExecutor(
        max_workers=min(workers, len(trials)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(source, question, folder, keeps),
    )
    try:
        waiting: set[Future[None]] = {pool.submit(_carry_out, trial) for trial in trials}
        while waiting:
            done, waiting = wait(waiting, _SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION)
            for each in done:
                each.result()
            yield
    except BrokenProcessPool as error:
        raise ObliviateError(
            "a worker process ended before its work did",
            hint="look for what it printed, make room in memory or give fewer workers, and call "
            "again: it goes on",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(source: Source, question: Question, folder: Path, keeps: bool) -> None:
    global _bench  # noqa: PLW0603 - a pool's initializer has nowhere else to put what it made
    torch.set_num_threads(1)
    sys.stdout = sys.stderr  # a project may print what it likes: the answer is its parent's
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _bench = Bench(source(), question, folder, keeps=keeps)


def _end_with_parent() -> None:
    """Nobody waits for a worker whose parent was killed: it must not go on for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _carry_out(trial: Trial) -> None:
    assert _bench is not None  # noqa: S101 - the initializer made it
    _bench.carry_out(trial)
