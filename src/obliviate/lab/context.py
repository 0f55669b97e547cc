"""Context: a digest of all that a measurement depends on, so that no other one is taken for it."""

from __future__ import annotations

import hashlib
import json
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.recipe.deal import key, keyed_hash
from obliviate.run.arguments import data_length
from obliviate.training.batches import TensorFeed, feed_of
from obliviate.training.collation import content_of
from obliviate.training.determinism import environment_facts
from obliviate.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch.utils.data import Dataset

    from obliviate.recipe.recipe import Project, Recipe
    from obliviate.recipe.subjects import GivenReference
    from obliviate.training.protocol import BlockTrainer

READ = 500  # records whose content stands for a dataset that is not tensors


def context_of(
    project: Project,
    trainer: BlockTrainer,
    *,
    erased: NDArray[np.int64],
    read: NDArray[np.int64],
    facts: Mapping[str, Any],
) -> str:
    """A digest of all that a measurement depends on, beside its seed and its method.

    The first step of training is part of it: it sees most changes inside the functions of a recipe,
    of which a fingerprint knows the names alone.

    Args:
        project: What is trained.
        trainer: By its recipe.
        erased: Records that are left out of the first step.
        read: Records whose content counts, where the data is not tensors.
        facts: What else the measurement depends on.
    """
    block, first = next(
        (block, each)
        for block in range(1, trainer.layout.blocks + 1)
        for each in trainer.layout.microbatches(block, erased)
    )
    probes = {
        name: _content(project.recipe, data)
        for name, data in sorted((project.probes or {}).items())
    }
    words = {
        "version": __version__,
        "environment": environment_facts(),
        "recipe": trainer.fingerprint(),
        "first step": vars(trainer.try_steps(trainer.initial(), block, [first])),
        "blocks": trainer.layout.blocks,
        "keep": project.keep,
        "data": _content(project.recipe, project.data, read),
        "test": _content(project.recipe, project.test) if project.test is not None else "",
        "probes": probes,
        **facts,
    }
    if project.reference is not None:
        words["reference"] = _reference(project.recipe, project.reference)
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def some(ids: NDArray[np.int64], seed: int, count: int) -> NDArray[np.int64]:
    """Some of the ids, drawn by a seed, sorted. Shapes (n,) -> (count or n,)."""
    order = np.argsort(keyed_hash(ids, key(seed, "laboratory")), kind="stable")
    return np.sort(ids[order[:count]])


def _reference(recipe: Recipe, given: GivenReference) -> str:
    if not isinstance(given, tuple):
        return _content(recipe, given)
    data, subjects = given
    return _content(recipe, data) + hashlib.sha256(repr(list(subjects)).encode()).hexdigest()


def _content(recipe: Recipe, data: Dataset[Any], of: NDArray[np.int64] | None = None) -> str:
    """A digest of a dataset: of all of it where it is tensors, else of some records."""
    feed, length = feed_of(data, 0, collate=recipe.collate), data_length(data)
    seen = hashlib.sha256(str(length).encode())
    if isinstance(feed, TensorFeed):
        pieces = content_of(feed.batch(np.arange(length, dtype=np.int64), 0))
    else:
        ids = some(np.arange(length, dtype=np.int64), 0, READ) if of is None else of
        pieces = chain.from_iterable(map(feed.content, ids.tolist()))
    for piece in pieces:
        seen.update(piece)
    return seen.hexdigest()
