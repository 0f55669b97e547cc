"""Work: carrying out what is due, request by request, so that none keeps another from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from obliviate.desk.policy import Policy, Step
from obliviate.desk.queue import Queue
from obliviate.erasure.results import Failure
from obliviate.errors import (
    ConnectionLost,
    ForeignData,
    LeaseLost,
    RefusedMeanwhile,
    RunLocked,
    RunOutdated,
    StorageFailed,
    StorageFull,
    TombstonesLost,
)
from obliviate.methods.exact import Exact
from obliviate.methods.registry import method_from

if TYPE_CHECKING:
    from collections.abc import Generator

    from obliviate.events import Event
    from obliviate.run.carried import Carried
    from obliviate.run.worker import Kind, Writer

_NOBODY = np.array([], dtype=np.int64)
_SETTLE = Step(kind="settle", method={"name": Exact.name}, requests=(), reason="all of it")
_NOBODYS_FAULT = (
    ConnectionLost,
    ForeignData,
    LeaseLost,
    RunLocked,
    RunOutdated,
    StorageFailed,
    StorageFull,
    TombstonesLost,
)
"""What stops every request, and not only the one at hand."""


@dataclass
class Working:
    """What `work` has come to.

    Attributes:
        carried: What was carried out, in order.
        failed: What could not be.
    """

    carried: list[Carried] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    def step(self, writer: Writer, step: Step) -> Generator[Event, None, None]:
        """Carry a step out.

        Requests that cannot be carried out together are tried in halves, until those are left that
        cannot be carried out by themselves: these alone go on waiting.
        """
        method, groups = method_from(step.method), [step.requests]
        while groups:
            numbers = writer.ledger.requests.waiting(groups.pop())
            if step.requests and not numbers:
                continue  # refused meanwhile, or carried out by another process
            named = writer.ledger.requests.records_of(numbers) if numbers else _NOBODY
            try:
                done = yield from writer.erasing(step.kind, named, method, requests=numbers)
            except RefusedMeanwhile:
                groups.append(numbers)
            except _NOBODYS_FAULT:
                raise
            except Exception as error:
                half = len(numbers) // 2
                if half:
                    groups += [numbers[half:], numbers[:half]]
                else:
                    self.failed.append(Failure(requests=numbers, error=error))
            else:
                self.carried.append(done)


def working(
    writer: Writer, policy: Policy, *, everything: bool = False
) -> Generator[Event, None, Working]:
    """Carry out what is to be done now; see `Run.work`."""
    come = Working()
    resumed = yield from writer.finishing()
    queue = Queue.of(writer.ledger, writer.facts, policy)
    chosen = _everything(queue) if everything else queue.steps
    try:
        for step in chosen:
            yield from come.step(writer, step)
        if everything and come.failed:  # whoever is left may have kept the chain from being exact
            yield from come.step(writer, _SETTLE)
    except _NOBODYS_FAULT as error:
        if not come.carried:
            raise
        come.failed.append(Failure(requests=(), error=error))
    if resumed is not None and resumed.error is not None:
        tried = {number for step in chosen for number in step.requests}
        left = tuple(number for number in resumed.requests if number not in tried)
        if left or not resumed.requests:
            come.failed.insert(0, Failure(requests=left, error=resumed.error))
    come.carried = [each for each in come.carried if each.number is not None]
    return come


def _everything(queue: Queue) -> tuple[Step, ...]:
    numbers = tuple(each.request.id for each in queue.waiting)
    kind: Kind = "forget" if numbers else "settle"
    return (Step(kind=kind, method={"name": Exact.name}, requests=numbers, reason="all of it"),)
