"""References: records of the same kind as the run's, and none of them: never trained on.

How a model behaves that never saw a record is read off them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from obliviate.recipe.contents import NOTHING
from obliviate.recipe.deal import groups_of, key
from obliviate.recipe.user_code import named
from obliviate.training.layout import Microbatch
from obliviate.training.records import Records

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.utils.data import Dataset

    from obliviate.recipe.contents import Hashes
    from obliviate.recipe.recipe import Recipe
    from obliviate.recipe.subjects import Subjects
    from obliviate.training.determinism import Environment

FEWEST_REFERENCES = 20
"""A conformal interval of 90 % needs 19 at the least: of n, one in n + 1 lies beyond the largest.

Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, section 2.2.
"""


@dataclass(frozen=True)
class Apart:
    """Records that are set apart, never to be trained on.

    Attributes:
        data: A map-style dataset.
        subjects: Whose each of its records is, where that is known.
    """

    data: Dataset[Any]
    subjects: Subjects | None = None


class References(Records):
    """Reads references. A reference is known by its index in its own dataset.

    Attributes:
        people: Whose each is, by number; None where that is not known. Shape (n,).
    """

    what: ClassVar[str] = "the reference dataset"

    def __init__(
        self,
        recipe: Recipe,
        apart: Apart,
        environment: Environment,
        content_key: bytes,
    ) -> None:
        """Ask for their number, and for none of them yet.

        Args:
            recipe: Of the run, by which they are scored.
            apart: They.
            environment: In what environment.
            content_key: What the run's records are hashed under.

        Raises:
            TrainingFailed: The dataset raised.
        """
        super().__init__(recipe, apart.data, environment, content_key)
        with named(f"the length of {self.what}"):
            self._length = len(apart.data)  # type: ignore[arg-type]
        self.people = None if apart.subjects is None else groups_of(apart.subjects)

    def __len__(self) -> int:
        return self._length

    def hashes(self, ids: NDArray[np.int64]) -> Hashes:
        """What hashes these references would have, if they were records of the run. Shape (n,).

        Equal content shows by equal hashes, unless the dataset draws what a record is anew each
        time.

        Raises:
            TrainingFailed: The dataset raised, or they cannot be collated.
        """
        size = self._recipe.batch_size
        wanted = [
            Microbatch(step=at, number=0, records=ids[first : first + size])
            for at, first in enumerate(range(0, len(ids), size))
        ]
        seed = key(self._recipe.seed, "references")
        with self._environment.entered(), named(self.what):
            fetched = self._feed.batches(wanted, seed, hashed_steps=len(wanted))
            return np.concatenate([NOTHING, *(each.hashes for each in fetched)])

    @cached_property
    def all_hashes(self) -> Hashes:
        """The hashes of all references; each is read once for it. Shape (n,)."""
        return self.hashes(np.arange(self._length, dtype=np.int64))
