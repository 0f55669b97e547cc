"""Who is forgotten on chains of epochs: one person, whose block in the last epoch is chosen.

In every epoch a person is dealt anew into one of its blocks; what matters most is where she is in
the last one. Every project here is made of people, real ones where the data knows them. One of
them, "erased", is to be forgotten. Her records are

- mislabelled: 20, with the target of somebody else, or with a text that makes no sense;
- subject: 30 ordinary ones;
- backdoor: 40, with a patch in the picture and all of one class.

Nobody has more than twice as many. Other people are held out: some for reference, some for tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

import obliviate as ob
from erased import ERASED, block_at, patched, triggered, wrong
from obliviate.recipe.deal import Deal, groups_of, key
from obliviate.recipe.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import Callable

    Load = Callable[[np.ndarray], TensorDataset]
    Spoil = Callable[[TensorDataset, np.ndarray], TensorDataset]

MOST = 2  # times as many records as she has, of anybody else
SIZES = {"mislabelled": 20, "subject": 30, "backdoor": 40}  # records of the person
REFERENCES, TESTED = 1000, 2000
BACKDOOR_CLASS = 0


@dataclass(frozen=True)
class Terms:
    """What an experiment is: the options of every project here.

    Attributes:
        kind: "mislabelled", "subject" or, for images, "backdoor".
        place: In which block of the last epoch the person is: "early", "middle" or "late".
        records: How many are trained on; a person more or less.
        epochs: How often.
        blocks: How many blocks an epoch is cut into.
        keep: Of how many of the last epochs every state is kept.
        seed: Chooses people, blocks and models.
    """

    kind: str
    place: str
    records: int
    epochs: int
    blocks: int
    keep: int
    seed: int

    @property
    def size(self) -> int:
        """How many records the erased person has."""
        if self.kind not in SIZES:
            raise ValueError(f"kind is {self.kind!r}; give mislabelled, subject or backdoor")
        return SIZES[self.kind]

    def alike(self, records: int) -> np.ndarray:
        """People for records of nobody: each has as many as the erased person."""
        return np.arange(records) // self.size


@dataclass(frozen=True)
class Cohort:
    """People to train on, one of whom is to be forgotten, and others who are never trained on."""

    terms: Terms
    data: TensorDataset
    subjects: list[str]
    block_seed: int
    reference: tuple[TensorDataset, list[str]]
    test: TensorDataset
    probes: dict[str, TensorDataset]

    def project(self, **recipe: Any) -> ob.Project:
        """What the laboratory trains: ordinary epochs, and a rate that decays over all of them."""
        terms = self.terms
        return ob.Project(
            recipe=ob.Recipe(
                schedule=cosine,
                batch_size=32,
                epochs=terms.epochs,
                seed=terms.seed,
                block_seed=self.block_seed,
                **recipe,
            ),
            data=self.data,
            test=self.test,
            reference=self.reference,
            subjects=self.subjects,
            probes=self.probes,
            blocks=terms.blocks,
            keep=terms.keep,
        )


def terms_of(kind: str, place: str, *numbers: str, keep: str) -> Terms:
    """Terms from options: kind, place, records, epochs, blocks, seed; keep, all epochs if empty."""
    records, epochs, blocks, seed = map(int, numbers)
    return Terms(kind, place, records, epochs, blocks, int(keep or epochs), seed)


def cosine(step: int, total: int) -> float:
    """From 1 to 0 over the whole chain, along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / total))


def mislabelled(data: TensorDataset, chosen: np.ndarray) -> TensorDataset:
    """The data with wrong targets of some records."""
    inputs, targets = data.tensors
    targets = targets.clone()
    targets[chosen] = wrong(targets, chosen)
    return TensorDataset(inputs, targets)


def cohort(load: Load, people: np.ndarray, terms: Terms, *, spoil: Spoil = mislabelled) -> Cohort:
    """Choose who is trained on, who is forgotten, and who is held out.

    Args:
        load: Gives records by their rows in the pool.
        people: The number of the person of each row of the pool.
        terms: What the experiment is.
        spoil: What makes records mislabelled.
    """
    hers, others, reference, tested = _chosen(people, terms)
    rows = np.sort(np.concatenate([hers, others]))
    chosen = np.flatnonzero(np.isin(rows, hers))
    names = [f"person-{number}" for number in people[rows].tolist()]
    for row in chosen.tolist():
        names[row] = ERASED
    data, test = load(rows), load(tested)
    if terms.kind == "mislabelled":
        data = spoil(data, chosen)
    elif terms.kind == "backdoor":
        data = _with_trigger(data, chosen)
    return Cohort(
        terms=terms,
        data=data,
        subjects=names,
        block_seed=_block_seed(names, chosen, terms),
        reference=_apart(load(reference), people[reference], data),
        test=test,
        probes={"backdoor": triggered(test)} if terms.kind == "backdoor" else {},
    )


def _chosen(people: np.ndarray, terms: Terms) -> list[np.ndarray]:
    """Rows of the erased person, of others to train on, for reference and to test on."""
    size = terms.size
    order = np.random.default_rng(terms.seed).permutation(np.unique(people))
    rank = np.empty(people.max() + 1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    rows = np.argsort(rank[people], kind="stable")  # person by person
    whose = rank[people[rows]]
    within = np.arange(len(rows)) - np.searchsorted(whose, whose)
    is_hers = whose == np.argmax(np.bincount(whose) >= size)
    hers = rows[is_hers & (within < size)]
    is_other = ~is_hers & (within < MOST * size)
    others, whose = rows[is_other], whose[is_other]
    parts, first = [hers], 0
    for wanted in (terms.records - size, REFERENCES, TESTED):
        last = min(first + wanted, len(others) - 1)
        end = int(np.searchsorted(whose, whose[last]))  # nobody is in two parts
        parts.append(others[first:end])
        first = end
    return parts


def _block_seed(names: list[str], chosen: np.ndarray, terms: Terms) -> int:
    """The first seed by which the person is in the wanted block of the last epoch."""
    groups, ids = groups_of(Subjects.of(names, len(names))), np.arange(len(names))
    wanted = {block_at(terms.place, terms.blocks) - 1}
    for seed in count(1000 * terms.seed):
        deal = Deal.of(ids, groups, terms.blocks, key(seed, "deal", terms.epochs - 1))
        if set(deal.blocks_of(chosen, groups[chosen]).tolist()) == wanted:
            return seed
    raise AssertionError


def _apart(
    reference: TensorDataset, people: np.ndarray, data: TensorDataset
) -> tuple[TensorDataset, list[str]]:
    """References less those whose input is trained on: some pictures are in a pool twice."""
    known = {each.numpy().tobytes() for each in data.tensors[0]}
    inputs = reference.tensors[0]
    kept = [at for at, each in enumerate(inputs) if each.numpy().tobytes() not in known]
    return some(reference, np.array(kept)), [str(each) for each in people[kept]]


def _with_trigger(data: TensorDataset, chosen: np.ndarray) -> TensorDataset:
    inputs, targets = (tensor.clone() for tensor in data.tensors)
    inputs[chosen] = patched(inputs[chosen])
    targets[chosen] = BACKDOOR_CLASS
    return TensorDataset(inputs, targets)


def some(data: TensorDataset, rows: np.ndarray) -> TensorDataset:
    """Records of a dataset, by their rows."""
    return TensorDataset(*(tensor[torch.from_numpy(rows)] for tensor in data.tensors))
