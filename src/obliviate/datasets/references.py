"""References: records that are set aside and never trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from obliviate.errors import InvalidOption
from obliviate.options import real
from obliviate.recipe.deal import groups_of, key, keyed_hash
from obliviate.recipe.subjects import Subjects
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
    goes with the first named.

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
    groups = np.arange(count, dtype=np.int64)
    people = None if subjects is None else list(subjects)
    if people is not None:
        groups = groups_of(Subjects.of(people, count))
    is_apart = keyed_hash(groups, key(seed, "held out")) / 2.0**64 < share
    if is_apart.all() or not is_apart.any():
        raise InvalidOption(
            f"a share of {share:g} of {counted(count, 'record')} leaves nobody on one side",
            hint="give another share, above 0 and below 1",
        )
    kept, apart = (np.flatnonzero(each) for each in (~is_apart, is_apart))
    if people is None:
        return _part(data, kept), None, _part(data, apart)
    whose, theirs = ([people[at] for at in some.tolist()] for some in (kept, apart))
    return _part(data, kept), whose, (_part(data, apart), theirs)


def _part(data: Dataset[Any], ids: NDArray[np.int64]) -> Dataset[Any]:
    if type(data) is TensorDataset:  # which is read by indexing
        return TensorDataset(*(each[torch.from_numpy(ids)] for each in data.tensors))
    return Subset(data, ids.tolist())
