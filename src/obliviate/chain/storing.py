"""Storing: blocks go to the disk beside the training of the next ones, and are committed in groups.

A block need not be on the disk before the next one is trained on: what a kill loses is trained
again. A flush of the disk and a transaction take as long as some small blocks, so they are shared
by all blocks of a moment. Large ones are still committed one by one, as each takes longer than
that.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import torch

from obliviate.states.update import LARGE_BYTES, size_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from obliviate.ledger import Entry
    from obliviate.states.update import State
    from obliviate.vault import Stored, Vault

    Commit = Callable[[Sequence[Entry]], None]

GROUP_SECONDS = 0.2
"""So much training a kill may lose, beside the block in training."""

SHARE = 10
"""Where a commit takes long, as on a server far away, groups last so many times as long."""


class Storing:
    """Stores blocks of a chain, in their order, and commits them.

    Blocks are stored in a thread of their own, or before the next one trains where a thread would
    only be in the way. They are committed in the thread in any case. What fails there is raised by
    the next call; blocks behind it are not committed.

    Of large states, one block is on its way at a time. It holds the state, the one before, whose
    memory becomes the update's, and nothing else once the next block begins: moments are on the
    disk by then.

    Attributes:
        is_late: Whether training had to wait the last time, so that what follows is stored fast.
    """

    def __init__(
        self, vault: Vault, commit: Commit, *, is_between: Callable[[State], bool]
    ) -> None:
        """Begin.

        Args:
            vault: Where the objects go.
            commit: Writes a group of entries down, durably; their objects are on the disk then.
            is_between: Whether a block that ends in a state is stored before the next one trains.
        """
        self._vault, self._commit, self._is_between = vault, commit, is_between
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="storing")
        self._pending: deque[tuple[Future[Entry], int]] = deque()
        self._commits: deque[Future[None]] = deque()
        self._group: list[Entry] = []
        self._has_failed = self._has_lost_group = False
        self.is_late = False
        self._group_seconds, self._last_commit = GROUP_SECONDS, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.finish()
        except Exception:
            if error is None:
                raise
        finally:
            self._thread.shutdown()

    def put(
        self,
        state: State,
        store: Callable[[], Entry],
        moments: Callable[[], Stored | None] = lambda: None,
    ) -> Future[Entry]:
        """Store a block.

        Args:
            state: One of those that it holds on to, to know their size.
            store: Stores it, and gives its entry; what it writes need not be durable.
            moments: Stores the optimizer's state that belongs to it, if any; beside `store`, and
                before this returns, where states are large.

        Raises:
            Exception: Whatever storing a block before it has raised.
        """
        size = size_bytes(state)
        self._make_room(size)
        if self._is_between(state):
            done: Future[Entry] = Future()
            done.set_result(self._stored(store, moments))
            if self._is_due():
                self._commits.append(self._thread.submit(self._commit_group, self._taken_group()))
        elif size <= LARGE_BYTES:
            done = self._thread.submit(self._store, store, moments)
        else:
            kept: Future[Stored | None] = Future()
            done = self._thread.submit(self._store, store, kept.result)
            _fulfil(kept, moments)
        self._pending.append((done, size))
        return done

    def wait(self) -> None:
        """Wait until all states are let go of, where they are large; raise what has failed."""
        large = [done for done, size in self._pending if size > LARGE_BYTES]
        self.is_late = not all(done.done() for done in large)
        if large:
            self._make_room(LARGE_BYTES)

    def finish(self) -> None:
        """Store and commit whatever is left.

        Raises:
            Exception: Whatever storing or committing has raised. What was stored before it is
                committed, if that is possible.
        """
        try:
            while self._pending:
                self._pending.popleft()[0].result()
            for each in self._commits:
                each.result()
        finally:
            self._thread.submit(self._commit_group, self._taken_group()).result()

    def _make_room(self, size: int) -> None:
        """Wait until there is room for some more, and raise what has failed."""
        while self._pending:
            done, _ = self._pending[0]
            in_flight = sum(each for _, each in self._pending)
            if not done.done() and in_flight + size <= LARGE_BYTES:
                break
            done.result()
            self._pending.popleft()
        while self._commits and self._commits[0].done():
            self._commits.popleft().result()

    def _store(self, store: Callable[[], Entry], moments: Callable[[], Stored | None]) -> Entry:
        entry = self._stored(store, moments)
        if self._is_due():
            self._commit_group(self._taken_group())
        return entry

    def _stored(self, store: Callable[[], Entry], moments: Callable[[], Stored | None]) -> Entry:
        if self._has_failed:
            raise RuntimeError("a block before this one could not be stored")
        try:
            with torch.inference_mode():  # whatever mode the caller has made its states in
                entry = store()
                if (optimizer := moments()) is not None:
                    entry = replace(entry, optimizer=optimizer)
        except BaseException:
            self._has_failed = True
            raise
        self._group.append(entry)
        return entry

    def _is_due(self) -> bool:
        return time.monotonic() - self._last_commit >= self._group_seconds

    def _taken_group(self) -> list[Entry]:
        group, self._group = self._group, []
        return group

    def _commit_group(self, group: list[Entry]) -> None:
        if not group or self._has_lost_group:
            return
        started = time.monotonic()
        try:
            self._vault.flush()
            self._commit(group)
        except BaseException:
            self._has_failed = self._has_lost_group = True
            raise
        self._last_commit = time.monotonic()
        self._group_seconds = max(GROUP_SECONDS, SHARE * (self._last_commit - started))


def _fulfil(kept: Future[Stored | None], moments: Callable[[], Stored | None]) -> None:
    """Store moments; what fails is raised where they are waited for."""
    try:
        with torch.inference_mode():
            kept.set_result(moments())
    except Exception as error:
        kept.set_exception(error)
    except BaseException as error:  # a Ctrl-C is for the caller too
        kept.set_exception(error)
        raise
