"""Working ahead: results are worked out in threads before they are needed, and come in order."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

AHEAD = 2  # so many objects

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int = AHEAD, depth: int = 0
) -> Iterator[Result]:
    """The results of some work, in order, a few of them worked out beforehand in threads.

    Args:
        work: What to do.
        items: To what.
        threads: In so many; with 0, nothing is worked out beforehand.
        depth: How many results may be there before the next one is taken, or on their way; at least
            as many as there are threads.
    """
    if not threads:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > max(threads, depth):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextlib.contextmanager
def aside(
    work: Callable[[Item], Result], item: Item, *, is_worth_it: bool
) -> Iterator[Callable[[], Result]]:
    """Some work while something else is done, in a thread where that is worth it.

    Yields:
        What gives the result.
    """
    if not is_worth_it:
        yield lambda: work(item)
        return
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(work, item).result


def cores() -> int:
    """On how many processor cores this process may run."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
