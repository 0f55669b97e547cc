"""A stream of requests: 200 people, asking one after the other, by every way there is."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.utils.data import Dataset

import obliviate as ob
from obliviate.datasets import digits

PEOPLE, BLOCKS = 200, 10
FAST = ob.DeepObliviate(epsilon=9)


class Watched(Dataset):
    """The digits; reading a record that the run's ledger calls erased is a failure of the test."""

    def __init__(self) -> None:
        self.data = digits()[0]
        self.forbidden: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int):
        if index in self.forbidden:
            raise AssertionError(f"record {index} was read after it was erased")
        return self.data[index]


@dataclass(frozen=True)
class Ask:
    """What one person asks for, and how."""

    subject: str
    how: str
    method: object


def people(records: int) -> list[str]:
    """Whose each record is: 1 to 20 belong to each of those who will ask, the rest to others."""
    rng = random.Random(5)
    order = rng.sample(range(records), records)
    owners = ["nobody who asks"] * records
    for person in range(PEOPLE):
        for _ in range(rng.choice([1, 1, 2, 3, 5, 8, 20])):
            owners[order.pop()] = f"person {person}"
    return owners


def asks() -> list[Ask]:
    """The requests, in their order."""
    rng = random.Random(7)
    return [
        Ask(
            subject=f"person {person}",
            how=rng.choice(["queue", "queue", "queue", "queue", "now"]),
            method=rng.choice([FAST, FAST, "exact"]),
        )
        for person in range(PEOPLE)
    ]


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def recipe() -> ob.Recipe:
    return ob.Recipe(
        model=network,
        optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9),
        loss=nn.functional.cross_entropy,
        optimizer_state="carried",
        batch_size=64,
        seed=1,
    )


def serve(folder, until: int = PEOPLE) -> ob.Run:
    """Serve the stream from its beginning, or go on where a killed process left it.

    Whether a request was received is asked of the ledger, and of nothing else.
    """
    data = Watched()
    owners = people(len(data))
    run = ob.fit(recipe(), data, folder, blocks=BLOCKS, subjects=owners)
    for number, ask in enumerate(asks()[:until], start=1):
        data.forbidden = frozenset(run.ledger.records.erased().tolist())
        if len(run.ledger.requests.all()) < number:
            if ask.how == "queue":
                run.request(subjects=[ask.subject], method=ask.method)
            else:
                run.forget(subjects=[ask.subject], method=ask.method)
        data.forbidden = frozenset(run.ledger.records.erased().tolist())
        if number % 8 == 0:
            run.work()
        if number % 40 == 0:
            run.settle()
        if number % 30 == 0:
            run.ledger.close()
            run = ob.load(folder, recipe(), data)
    data.forbidden = frozenset(run.ledger.records.erased().tolist())
    run.work(everything=True)
    data.forbidden = frozenset(run.ledger.records.erased().tolist())
    return run


def never_asked(folder, until: int = PEOPLE) -> ob.Run:
    """What training without all who asked gives."""
    data = Watched()
    owners = people(len(data))
    gone = {ask.subject for ask in asks()[:until]}
    left_out = [record for record, owner in enumerate(owners) if owner in gone]
    data.forbidden = frozenset(left_out)
    return ob.fit(recipe(), data, folder, blocks=BLOCKS, subjects=owners, exclude=left_out)
