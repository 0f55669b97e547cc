"""Reading records: as training sees them, and as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.recipe.contents import placed
from obliviate.recipe.deal import key
from obliviate.recipe.user_code import named
from obliviate.training.records import Records

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from numpy.typing import NDArray
    from torch.utils.data import Dataset

    from obliviate.recipe.contents import Hashes
    from obliviate.recipe.recipe import Recipe
    from obliviate.training.batches import Fetched
    from obliviate.training.determinism import Environment
    from obliviate.training.layout import Layout, Microbatch


class Reader(Records):
    """Reads the records of a run, in the places that a layout gives them."""

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset[Any],
        layout: Layout,
        environment: Environment,
        content_key: bytes | None = None,
    ) -> None:
        """Ask nothing of the dataset yet.

        Args:
            recipe: By whose seed, with how many processes, to which device.
            data: The dataset.
            layout: Which record is trained on where.
            environment: In what environment.
            content_key: What records are hashed under; see `feed_of`.
        """
        super().__init__(recipe, data, environment, content_key)
        self._layout = layout

    def of_block(self, block: int, microbatch: Microbatch) -> Any:
        """A microbatch of a block as training reads it, on the recipe's device.

        Raises:
            TrainingFailed: The dataset raised.
        """
        seed = key(self._recipe.seed, "fetch", block)
        return self.batch(microbatch.records, key(seed, microbatch.step), microbatch.number)

    def unhashed(self, block: int) -> Hashes:
        """Room for the hashes of a block's records."""
        return np.zeros(len(self._layout.members(block)), dtype=np.uint32)

    def batches(
        self,
        block: int,
        erased: NDArray[np.int64],
        contents: Hashes,
        *,
        is_once: bool = False,
        numbers: Container[int] | None = None,
    ) -> Iterator[Fetched]:
        """The microbatches of a block, on the CPU, in the environment that the caller has entered.

        Args:
            block: Its number.
            erased: Sorted ids. They are never asked of the dataset.
            contents: The hashes of the block's records, written down on the way; see `unhashed`.
            is_once: Whether each record is wanted once.
            numbers: Those of the microbatches of a batch that are wanted; all if None.
        """
        members, wanted = self._layout.members(block), self._layout.microbatches(block, erased)
        steps_once = self._layout.steps_once(block)
        if is_once:
            wanted = (each for each in wanted if each.step < steps_once)
        if numbers is not None:
            wanted = (each for each in wanted if each.number in numbers)
        seed = key(self._recipe.seed, "fetch", block)
        for fetched in self._feed.batches(wanted, seed, hashed_steps=steps_once):
            if len(fetched.hashes):
                placed(contents, members, fetched.microbatch.records, fetched.hashes)
            yield fetched

    def contents(self, block: int, erased: NDArray[np.int64]) -> Hashes:
        """What the records of a block are, by reading them as training does.

        Raises:
            TrainingFailed: The dataset raised.
        """
        contents = self.unhashed(block)
        with self._environment.entered(), named(f"block {block}: {self.what}"):
            for _ in self.batches(block, erased, contents, is_once=True):
                pass
        return contents
