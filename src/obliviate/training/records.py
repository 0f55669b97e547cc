"""Records: what a dataset holds, read by index in the environment that bits depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from obliviate.recipe.user_code import named
from obliviate.training.batches import feed_of, moved

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.utils.data import Dataset

    from obliviate.recipe.recipe import Recipe
    from obliviate.training.batches import Feed
    from obliviate.training.determinism import Environment


class Records:
    """Reads records of one dataset.

    Attributes:
        what: What the dataset is called where it raises.
    """

    what: ClassVar[str] = "the dataset"

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset[Any],
        environment: Environment,
        content_key: bytes | None = None,
    ) -> None:
        """Ask nothing of the dataset yet.

        Args:
            recipe: By whose seed, with how many processes, to which device.
            data: The dataset.
            environment: In what environment.
            content_key: What records are hashed under; see `feed_of`.
        """
        self._recipe, self._environment = recipe, environment
        data_threads = int(environment.facts["data threads"])
        self._feed: Feed = feed_of(data, recipe.workers, data_threads, content_key, recipe.collate)

    def batch(self, records: NDArray[np.int64], seed: int = 0, number: int = 0) -> Any:
        """The batch of some records, on the recipe's device.

        Raises:
            TrainingFailed: The dataset raised.
        """
        with self._environment.entered(), named(self.what):
            return moved(self._feed.batch(records, seed, number), self._recipe.device)

    def content(self, record: int) -> list[bytes | memoryview]:
        """The content of a record, which depends neither on its id nor on its neighbours.

        Raises:
            TrainingFailed: The dataset raised.
        """
        with self._environment.entered(), named(self.what):
            return self._feed.content(record)
