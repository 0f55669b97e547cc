"""Requests, an extension and failing work in any order, killed anywhere: nobody is lost.

Whatever came in whatever order, the settled chain is that of a training that never saw them.
"""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING

import pytest
from torch.utils.data import Dataset

import obliviate as ob
from obliviate.errors import ObliviateError
from tests.models import BLOCKS, RECORDS, images, recipe
from tests.prepared import PROCESSES

if TYPE_CHECKING:
    from pathlib import Path

FAST = ob.DeepObliviate(epsilon=9)
METHODS = ["exact", FAST, ob.Calibrated(tolerance=100)]
PEOPLE = [f"u{record % 24}" for record in range(RECORDS + 24)]
BROKEN = RECORDS - 1
"""A record of a person who stays; for a while it cannot be read."""


class Fragile(Dataset):
    """Images of which one cannot be read while a file is there."""

    def __init__(self, flag: Path) -> None:
        self.images, self.flag = images(), flag

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, record: int):
        if record == BROKEN and self.flag.exists():
            raise RuntimeError("the disk of the images is away")
        return self.images[record]


NEW = images(24, seed=1)


class World:
    """A run of a folder and what can be done to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.flag = folder, folder.with_name("away")
        self.flag.unlink(missing_ok=True)
        self.returned: set[str] = set()
        """Who was erased before the extension: new records of theirs are others, and stay."""
        self.run = self.opened()

    def opened(self) -> ob.Run:
        data = Fragile(self.flag)
        return ob.fit(recipe(), data, self.folder, blocks=BLOCKS, subjects=PEOPLE[:RECORDS])

    def request(self, person: int, method) -> None:
        self.run.request(subjects=[f"u{person}"], method=method)

    def extend(self) -> None:
        if self.run.facts.records == RECORDS:
            erased = self.run.ledger.records.erased().tolist()
            self.returned = {PEOPLE[record] for record in erased}
        self.run.extend(NEW, blocks=2, subjects=PEOPLE[RECORDS:])

    def work(self) -> None:
        assert not self.run.work(everything=True).failed

    def fail(self) -> None:
        """Work while a record cannot be read: it fails where that has to be trained on again."""
        self.flag.touch()
        try:
            for failure in self.run.work(everything=True).failed:
                assert isinstance(failure.error, ObliviateError)
        except ObliviateError as error:
            assert error.hint  # noqa: PT017
        finally:
            self.flag.unlink()


def never(folder: Path, people: set[str], returned: set[str]) -> str:
    """The digest of training without some people from the start."""
    left_out = [record for record, person in enumerate(PEOPLE) if person in people]
    old = [record for record in left_out if record < RECORDS]
    run = ob.fit(
        recipe(),
        Fragile(folder / "away"),
        folder / "never",
        blocks=BLOCKS,
        subjects=PEOPLE[:RECORDS],
        exclude=old,
    )
    stay = [record for record in left_out if PEOPLE[record] not in returned]
    new = [record for record in stay if record >= RECORDS]
    run.extend(NEW, blocks=2, subjects=PEOPLE[RECORDS:], exclude=new)
    return run.digest


def orders(seed: int):
    """A story: its steps by name, with what they need; u23, whose record breaks, stays."""
    chance = random.Random(seed)
    people = chance.sample(range(23), 4)
    steps = [("request", person, chance.choice(METHODS)) for person in people]
    steps += [("fail",), ("work",), ("fail",), ("reopen",)]
    chance.shuffle(steps)
    steps.insert(chance.randrange(len(steps) + 1), ("extend",))
    return steps, {f"u{person}" for person in people}


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 40))]
)
def test_any_order_ends_as_if_they_had_never_been_there(tmp_path, seed):
    steps, people = orders(seed)
    world = World(tmp_path / "run")
    for name, *given in steps:
        if name == "reopen":
            data = world.run.data
            world.run.ledger.close()
            world.run = ob.load(world.folder, recipe(), data)
        else:
            getattr(world, name)(*given)
    world.work()
    world.run.settle()
    assert world.run.digest == never(tmp_path, people, world.returned)
    assert world.run.verify().passed
    states = {each.state for each in world.run.ledger.requests.all()}
    assert states == {"settled"}


def live(folder: Path, seed: int, kill) -> None:
    """One life: the whole story, as a script that is started again and again tells it."""
    from tests.kill_child import arm

    arm(kill)
    told(folder, seed)
    os._exit(0)


def told(folder: Path, seed: int) -> ob.Run:
    """Requests before and behind an extension, and work that fails; each step done once."""
    _, people = orders(seed)
    first, second, third, fourth = sorted(people)
    world = World(folder)
    run = world.run

    def count() -> int:
        return len(run.ledger.requests.all())

    if count() < 1:
        run.request(subjects=[first], method=FAST)
    if count() < 2:
        run.request(subjects=[second], method="exact")
    if run.facts.blocks == BLOCKS:
        world.fail()
    world.extend()
    for number, person in ((3, third), (4, fourth)):
        if count() < number:
            run.request(subjects=[person], method=METHODS[number % 3])
        world.fail()
    world.work()
    run.settle()
    return run


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))]
)
def test_killed_anywhere_it_ends_as_if_they_had_never_been_there(tmp_path, seed):
    chance = random.Random(seed)
    killed = 0
    for number in sorted(chance.sample(range(90), 3)):
        kill = (chance.choice(["commit", "fsync"]), number, chance.choice(["before", "after"]))
        child = PROCESSES.Process(target=live, args=(tmp_path / "run", seed, kill))
        child.start()
        child.join(120)
        assert child.exitcode in (0, -signal.SIGKILL), f"{kill}: exit {child.exitcode}"
        killed += child.exitcode != 0
    assert killed
    run = told(tmp_path / "run", seed)
    people, erased = orders(seed)[1], set(run.ledger.records.erased().tolist())
    new = {person: PEOPLE.index(person, RECORDS) for person in people}
    # whose request was carried out before the extension: her new records were given again
    returned = {person for person in people if new[person] not in erased}
    assert returned <= set(sorted(people)[:2])
    assert run.digest == never(tmp_path, people, returned)
    assert run.verify().passed
    assert {each.state for each in run.ledger.requests.all()} == {"settled"}
