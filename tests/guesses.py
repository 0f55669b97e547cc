"""An attacker with a run's folder, the retained data and guesses at the record that was erased.

For each guess the blocks from the record's own on are trained as they were with it. Whatever that
gives is looked for in all that the run left: values of the ledger and of its journal, reports,
objects, and every byte of every file.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

import obliviate as ob
from obliviate.events import Event
from obliviate.evidence import gathered, page
from obliviate.ledger import row_groups, tables
from obliviate.recipe.contents import packed
from obliviate.run.fingerprint import content_hashes
from obliviate.states.update import digest, update_between
from obliviate.training.protocol import Checkpoint
from obliviate.vault.codec import encode_update
from obliviate.vault.frames import framed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import TensorDataset

NEAR = 1e-6  # so close are two numbers that were computed in the same way


@dataclass
class Left:
    """All that a run left: texts, numbers, and the bytes of its files."""

    texts: set[str] = field(default_factory=set)
    numbers: list[float] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    salts: list[bytes] = field(default_factory=list)
    destroyed: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def by(cls, folder) -> Left:
        """What is in a folder."""
        left = cls()
        left.raw = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
        left.numbers += [float(len(each)) for each in left.raw]
        left.take(page(gathered(folder)))
        with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite")) as ledger:
            for name in tables.metadata.tables:
                for row in ledger.execute(f'SELECT * FROM "{name}"'):
                    for value in row:
                        left.take(value)
            left.salts = [salt for (salt,) in ledger.execute("SELECT salt FROM salts")]
            left.destroyed = ledger.execute("SELECT key, made FROM objects").fetchall()
        left.numbers = np.unique(left.numbers)
        return left

    def take(self, value) -> None:
        """Take a value up, and whatever is in it."""
        if isinstance(value, dict):
            for each in (*value, *value.values()):
                self.take(each)
        elif isinstance(value, list):
            for each in value:
                self.take(each)
        elif isinstance(value, bytes):
            self.texts.add(value.hex())
        elif isinstance(value, int | float):
            self.numbers.append(float(value))
        elif isinstance(value, str):
            self.texts.add(value)
            self.numbers += map(float, re.findall(r"\d+\.\d+(?:e-?\d+)?", value))
            with contextlib.suppress(ValueError):
                self.take(json.loads(value))

    def has(self, text: str) -> bool:
        """Whether a hash is told anywhere, in hex or in bytes."""
        needles = [text.encode(), bytes.fromhex(text)]
        return text in self.texts or any(needle in raw for needle in needles for raw in self.raw)

    def near(self, number: float) -> int:
        """How many numbers are as good as equal to one."""
        return int(np.sum(np.abs(self.numbers - number) <= NEAR * abs(number)))

    def salted(self, size: int, said: str) -> bool:
        """Whether any hash of the journal, under any salt that there is, is that of an object."""
        for salt in self.salts:
            for key, made in self.destroyed:
                found = row_groups.Salted(salt)
                found.add([(1, key, size, said, None, "live", made, None)])
                if found.hash in self.texts:
                    return True
        return False


@dataclass(frozen=True)
class Clues:
    """What a guess would have left, had it been the record."""

    hashes: tuple[str, ...]
    numbers: tuple[float, ...]
    object: tuple[int, str]


class Attacker:
    """Somebody who holds all that is left of a run, and all data but the erased record's."""

    def __init__(self, folder, recipe, data: TensorDataset, record: int, block: int) -> None:
        self.recipe, self.data, self.record = recipe, data, record
        self.run = ob.load(folder, recipe, data)
        chain = self.run.chain()
        self.before = chain.checkpoint(block - 1)
        self.blocks = range(block, chain.blocks + 1)
        self.replayed = chain.state(block)
        self.erased = np.setdiff1d(self.run.ledger.records.erased(), [record])

    def clues(self, guess: Tensor) -> Clues:
        """What a guess at the record would have left."""
        self.data.tensors[0][self.record] = guess
        start = Checkpoint(model={name: each.clone() for name, each in self.before.model.items()})
        trained = [
            item
            for item in self.run.trainer.train(start, self.blocks, self.erased)
            if not isinstance(item, Event)
        ]
        states = [each.checkpoint.model for each in trained]
        update = update_between(self.before.model, states[0])
        object_ = b"".join(framed(encode_update(update)))
        said = blake3(object_).hexdigest()
        size = sum(float(step.abs().sum()) for step in update.steps.values())
        apart = sum(
            float((states[0][name] - each).abs().sum()) for name, each in self.replayed.items()
        )
        sampled = content_hashes(
            self.run.trainer, [self.record], self.run.facts.content_key
        ).values()
        at = self.run.trainer.layout.members(self.blocks[0]).tolist().index(self.record)
        known = packed(trained[0].contents[at : at + 1]).hex()
        return Clues(
            hashes=(said, known, *map(digest, states), *sampled),
            numbers=(float(len(object_)), apart / size, *(each.loss for each in trained)),
            object=(len(object_), said),
        )


def scores(attacker: Attacker, left: Left, guesses: Tensor) -> np.ndarray:
    """How much of what each guess would have left is there."""
    found = []
    for guess in guesses:
        clues = attacker.clues(guess)
        told = sum(map(left.has, clues.hashes)) + left.salted(*clues.object)
        found.append(1000 * told + sum(map(left.near, clues.numbers)))
    return np.array(found)
