"""References: records that are set aside and never trained on."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from obliviate.errors import InvalidOption
from obliviate.options import real
from obliviate.recipe.deal import groups_of, key, keyed_hash
from obliviate.recipe.subjects import Subjects
from obliviate.states.update import raw_bytes
from obliviate.text import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from obliviate.recipe.subjects import Given, GivenReference


def held_out(
    data: Dataset[Any], subjects: Given | None = None, *, share: float = 0.05, seed: int = 0
) -> tuple[Dataset[Any], list[Any] | None, GivenReference]:
    """Set records aside that are never trained on, to serve as references.

    Who is set aside depends on a keyed hash: with a longer dataset, whose first records are the
    same, the same of them are. All records of a person are on one side; one that belongs to several
    goes with the first named. Of a `TensorDataset`, what is set aside and equals a record that is
    trained on is left out: it would show nothing, and `fit` refuses it.

    Args:
        data: Map-style.
        subjects: Whose each record is; see `fit`.
        share: How much to set aside, of people where there are some; above 0 and below 1.
        seed: Of the hash.

    Returns:
        The records to train on, whose they are (None without subjects), and the references, with
        whose they are: what `fit` takes for `reference`.

    Raises:
        InvalidOption: One side would be empty, or an argument is none of the kind.
    """
    share = real(share, "share", above=0, hint="a part of the records, such as 0.05")
    count = len(data)  # type: ignore[arg-type]
    people = None if subjects is None else list(subjects)
    is_apart = is_held_out(people, count, share=share, seed=seed)
    if is_apart.all() or not is_apart.any():
        raise InvalidOption(
            f"a share of {share:g} of {counted(count, 'record')} leaves nobody on one side",
            hint="give another share, above 0 and below 1",
        )
    kept, apart = (np.flatnonzero(each) for each in (~is_apart, is_apart))
    if type(data) is TensorDataset:
        apart = _others(data, apart, kept)
    if people is None:
        return _part(data, kept), None, _part(data, apart)
    whose, theirs = ([people[at] for at in some.tolist()] for some in (kept, apart))
    return _part(data, kept), whose, (_part(data, apart), theirs)


def is_held_out(
    subjects: Given | None, records: int, *, share: float, seed: int = 0
) -> NDArray[np.bool_]:
    """Which records `held_out` sets aside."""
    groups = np.arange(records, dtype=np.int64)
    if subjects is not None:
        groups = groups_of(Subjects.of(subjects, records))
    is_apart: NDArray[np.bool_] = keyed_hash(groups, key(seed, "held out")) / 2.0**64 < share
    return is_apart


def _others(
    data: TensorDataset, apart: NDArray[np.int64], kept: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Those of some records that are equal to none of others."""
    known = {_content(data, at) for at in kept.tolist()}
    return np.array([at for at in apart.tolist() if _content(data, at) not in known], np.int64)


def _content(data: TensorDataset, record: int) -> bytes:
    content = blake2b(digest_size=16)
    for tensor in data[record]:
        content.update(raw_bytes(tensor))
    return content.digest()


def _part(data: Dataset[Any], ids: NDArray[np.int64]) -> Dataset[Any]:
    if type(data) is TensorDataset:  # which is read by indexing
        return TensorDataset(*(each[torch.from_numpy(ids)] for each in data.tensors))
    return Subset(data, ids.tolist())
