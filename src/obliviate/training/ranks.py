"""Ranks: the processes of one program that train together, and what they tell each other.

Rank 0 leads and the others follow it. Messages are words and tensors, from one rank to another over
gloo: nothing is pickled, and whoever is lost can be named.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import time
import traceback
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from obliviate.errors import InvalidOption, RankLost, RunLocked, error_of
from obliviate.launch import is_one_of_several
from obliviate.text import counted, duration
from obliviate.training.messages import (
    BYTE,
    Message,
    bytes_of,
    is_large,
    pieces_of,
    told_of,
    verdict_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from obliviate.states.update import State
    from obliviate.training.sharing import Sharing

EXCHANGE_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for another one in the middle of a block."""

_PATIENCE = timedelta(days=30)
"""How long the others wait for what rank 0 does by itself."""

_LOOKING_SECONDS = 1.0
_NEVER_SENT = 1  # a tag
_AGAIN = "run the same command again, on all ranks: it goes on where it was"
_LOOK = (
    "look what keeps it (a dataset that waits, a machine short of memory), end what is left of all "
    f"ranks, and {_AGAIN}"
)


class Ranks:
    """The processes of this program; the same on all of them, but for the rank.

    Attributes:
        rank: This process's number.
        size: How many processes there are.
        finished: The last block that all of them have finished, in a training.
        task: What they are called for at this moment; empty between calls.
        sharing: The training that they share, or shared last.
        is_apart: Whether this rank trains by itself meanwhile.
        is_lost: Whether somebody was lost, or this rank has left.
    """

    sharing: Sharing | None = None
    is_apart = False

    def __init__(self) -> None:
        """Connect with all others, who do the same."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.finished: int | None = None
        self.task = ""
        self.is_lost = False
        self._groups: list[Any] = [
            dist.new_group(backend="gloo", timeout=_PATIENCE),
            dist.new_group(backend="gloo", timeout=EXCHANGE_TIMEOUT),
        ]
        self._exchanging = self._groups[1]

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def others(self) -> range:
        """Those who follow."""
        return range(1, self.size)

    def use(self, device: str) -> None:
        """Exchange what lies on a device; all ranks call it at the same time."""
        if torch.device(device).type == "cuda" and len(self._groups) == len(("told", "cpu")):
            self._groups.append(dist.new_group(backend="nccl", timeout=EXCHANGE_TIMEOUT))
        self._exchanging = self._groups[-1 if torch.device(device).type == "cuda" else 1]

    # Messages

    def put(self, rank: int, words: Mapping[str, Any], tensors: State | None = None) -> None:
        """Tell a rank something."""
        with self._reaching(rank):
            for each in pieces_of(words, tensors or {}):
                dist.send(each, rank, group=self._groups[0])

    def take(self, rank: int) -> Message:
        """What a rank tells this one; waits for it."""
        lengths = torch.zeros(2, dtype=torch.int64)
        with self._reaching(rank):
            dist.recv(lengths, rank, group=self._groups[0])
            of_words, of_all = lengths.tolist()
            together = torch.empty(of_all, dtype=BYTE)
            dist.recv(together, rank, group=self._groups[0])
        told, at = json.loads(together[:of_words].numpy().tobytes()), of_words
        tensors = {}
        for name, (dtype, shape) in told["tensors"].items():
            tensors[name] = tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            raw = bytes_of(tensor)
            if is_large(tensor):
                with self._reaching(rank):
                    dist.recv(raw, rank, group=self._groups[0])
            else:
                raw.copy_(together[at : at + len(raw)])
                at += len(raw)
        return Message(words=told["words"], tensors=tensors)

    def say(self, words: Mapping[str, Any], tensors: State | None = None) -> None:
        """Tell all who follow something."""
        for rank in self.others:
            self.put(rank, words, tensors)

    def agree(
        self,
        error: Exception | None,
        words: Mapping[str, Any] | None = None,
        tensors: State | None = None,
        check: Callable[[Sequence[Message]], Exception | None] | None = None,
    ) -> list[Message]:
        """See that nothing went wrong on any rank; all call it at the same time.

        Args:
            error: What went wrong here, if anything did.
            words: What rank 0 is to know of this rank.
            tensors: The same.
            check: What rank 0 finds wrong with all that it was told, rank by rank.

        Returns:
            What all ranks told, on rank 0; nothing on the others.

        Raises:
            ObliviateError: What went wrong, on all ranks alike.
        """
        own = json.loads(json.dumps({"error": told_of(error), **(words or {})}))
        if not self.is_leader:
            self.put(0, own, tensors)
            verdict = self.take(0).words["verdict"]
            if verdict is not None:
                raise error_of(**verdict) from error
            return []
        told = [Message(words=own, tensors=tensors or {}), *map(self.take, self.others)]
        verdict = verdict_of([each.words["error"] for each in told])
        if verdict is None and check is not None:
            verdict = told_of(check(told))
        self.say({"verdict": verdict})
        if verdict is not None:
            raise error_of(**verdict) from error
        return told

    # What lies on the devices

    def swapped(self, mine: Tensor, theirs: Tensor, rank: int) -> None:
        """Give a tensor to a rank, and get one of the same form, which is written to `theirs`."""
        self.traded([(mine, rank)], [(theirs, rank)])

    def traded(
        self, given: Sequence[tuple[Tensor, int]], got: Sequence[tuple[Tensor, int]]
    ) -> None:
        """Give tensors to ranks, and write to others what ranks give to this one."""
        group = self._exchanging
        ways: list[tuple[Any, Sequence[tuple[Tensor, int]]]] = [(dist.isend, given)]
        ways.append((dist.irecv, got))
        works = []
        for operation, traded in ways:
            for tensor, rank in traded:
                with self._reaching(rank):
                    works.append((operation(bytes_of(tensor), rank, group=group), rank))
        for work, rank in reversed(works):  # whoever is lost gives nothing: that is known first
            with self._reaching(rank):
                work.wait()

    # Whoever is lost

    def check(self) -> None:
        """See that all are still there.

        Raises:
            RankLost: Somebody was lost before.
        """
        if self.is_lost:
            raise RankLost("a rank was lost before", hint=_AGAIN)

    @contextlib.contextmanager
    def _reaching(self, rank: int) -> Iterator[None]:
        self.check()
        try:
            yield
        except RuntimeError as error:
            traceback.clear_frames(error.__traceback__)  # they hold the connections
            raise self._lost(rank, is_late="imed out" in str(error)) from None
        except BaseException:
            self.leave()
            raise

    def _lost(self, rank: int, *, is_late: bool) -> RankLost:
        """The error of a rank that cannot be reached, or of whom that one could not reach."""
        with contextlib.suppress(RuntimeError):
            store = _store()
            if store.check([_place(rank)]):
                rank, is_late = json.loads(store.get(_place(rank)))
            store.set(_place(self.rank), json.dumps([rank, is_late]))
        self.leave()
        if self.is_leader:  # the store may end with this process, and the others look into it now
            time.sleep(_LOOKING_SECONDS)
        behind = (
            "" if self.finished is None else f"; block {self.finished} was the last that was done"
        )
        if is_late:
            waited = duration(EXCHANGE_TIMEOUT.total_seconds())
            return RankLost(f"rank {rank} did not answer for {waited}{behind}", hint=_LOOK)
        return RankLost(f"rank {rank} was lost{behind}", hint=_AGAIN)

    def close(self) -> None:
        """End the training that is shared, where rank 0 has not asked for all of its blocks."""
        if self.sharing is not None:
            self.sharing.close()
        self.sharing = None

    def leave(self) -> None:
        """Close all connections, so that nobody waits for this rank."""
        if self.is_lost:
            return
        self.is_lost = True
        rank = 1 if self.is_leader else 0
        for group in self._groups[:2]:
            # gloo has no way to close them but this: a receive that comes too late does it
            with contextlib.suppress(RuntimeError):
                late: Any = dist.irecv(torch.zeros(1), rank, group=group, tag=_NEVER_SENT)
                late.wait(timedelta(milliseconds=1))
        for group in self._groups[2:]:
            group.abort()

    @contextlib.contextmanager
    def called(self, task: str) -> Iterator[None]:
        """All ranks are called for the same thing meanwhile.

        Raises:
            RunLocked: They are in the middle of another.
        """
        self.check()
        if self.task:
            raise RunLocked(
                f"the ranks are in the middle of {self.task}",
                hint=f"let it come to its end before {task} is called",
            )
        self.task, self.finished = task, None
        try:
            yield
        finally:
            self.task = ""


_ranks: Ranks | None = None


def gathered() -> Ranks | None:
    """The processes of this program, where there are several; waits for them the first time.

    A group that was made before, by `torch.distributed`, is used; else one is made where a launcher
    such as torchrun has started several processes.

    Raises:
        RankLost: Somebody was lost before.
    """
    global _ranks  # noqa: PLW0603 - a process belongs to one group
    if not dist.is_available():
        return None
    if not dist.is_initialized():
        if not is_one_of_several():
            return None
        if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what "cuda" means from now on
        dist.init_process_group("gloo")
        atexit.register(_leave)
    if dist.get_world_size() == 1:
        return None
    if _ranks is None:
        _ranks = Ranks()
    _ranks.check()
    return _ranks


def called() -> Ranks | None:
    """The processes of this program, where all of them take part in a call at this moment."""
    return _ranks if _ranks is not None and _ranks.task else None


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Train by oneself meanwhile, also where several ranks are called."""
    if _ranks is None:
        yield
        return
    _ranks.is_apart = True
    try:
        yield
    finally:
        _ranks.is_apart = False


def check_alone(what: str) -> None:
    """See that there is one process only.

    Raises:
        InvalidOption: There are several.
    """
    ranks = gathered()
    if ranks is not None:
        raise InvalidOption(
            f"{what} is called on {counted(ranks.size, 'rank')}",
            hint="call it in one process, without torchrun",
        )


def _leave() -> None:
    with contextlib.suppress(Exception):
        dist.destroy_process_group()


def _place(rank: int) -> str:
    return f"obliviate/lost/{rank}"


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()
