"""The local pool: processes of this machine, each with its own interpreter."""

from __future__ import annotations

import multiprocessing
import os
import threading
import uuid
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from obliviate.errors import ObliviateError
from obliviate.executors.task import carry_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obliviate.executors.executor import Job

_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class LocalPool:
    """Carries out jobs in processes of this machine; see `Executor`.

    Attributes:
        workers: How many there are.
    """

    workers: int

    def results(self, job: Job) -> Iterator[dict[str, Any]]:
        """See `Executor.results`."""
        pool = ProcessPoolExecutor(
            max_workers=min(self.workers, len(job.tasks)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
        )
        key = uuid.uuid4().hex
        try:
            names = {pool.submit(carry_out, key, job.source, name): name for name in job.tasks}
            waiting = set(names)
            while waiting:
                done, waiting = wait(waiting, _SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION)
                yield {names[each]: each.result() for each in done}
        except BrokenProcessPool as error:
            raise ObliviateError(
                "a worker process ended before its work did",
                hint="look for what it printed, make room in memory or give fewer workers, and "
                "call again: it goes on",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Nobody waits for a worker whose parent was killed: it must not go on for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
