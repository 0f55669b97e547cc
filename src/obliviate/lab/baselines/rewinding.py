"""Rewinding: to the epoch in which the forgotten are wrong as often as the never seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.training.batches import feed_of, moved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from obliviate.lab.baselines.tuning import Tuning

_RECORDS_AT_ONCE = 256


class Rewinding:
    """The states of a classifier after each epoch, and how often the forgotten are wrong in each.

    Source: Kurmanji et al. 2023 (arXiv 2302.09880), SCRUB+R: the reference is the error, in the
    end, on held-out records that are distributed as the forgotten; here they are the test records,
    each class weighted as it is among the forgotten.
    """

    def __init__(self, tuning: Tuning) -> None:
        """Measure nothing yet."""
        self._tuning = tuning
        self._states: list[Mapping[str, Tensor]] = []
        self._errors: list[float] = []

    def note(self) -> None:
        """Keep the state after an epoch."""
        _, is_wrong = self._measured(self._forgotten, self._tuning.request.records)
        self._states.append(self._tuning.model.state())
        self._errors.append(float(is_wrong.mean()))

    def rewind(self) -> int:
        """Go back to the epoch that is closest to the reference, the last of them if several are.

        Returns:
            Its number, from 0.
        """
        reference = self.reference()
        epochs = range(len(self._errors))
        best = min(epochs, key=lambda at: (abs(self._errors[at] - reference), -at))
        self._tuning.model.load(self._states[best])
        return best

    def reference(self) -> float:
        """The error on test records of the forgotten's classes."""
        project = self._tuning.model.project
        feed = feed_of(project.test, 0, collate=project.recipe.collate)  # type: ignore[arg-type]
        ids = np.arange(len(project.test), dtype=np.int64)  # type: ignore[arg-type]
        tested, is_wrong = self._measured(feed.batch, ids)
        wanted, _ = self._measured(self._forgotten, self._tuning.request.records)
        known = [each for each in np.unique(wanted) if (tested == each).any()]
        counts = [float((wanted == each).sum()) for each in known]
        errors = [float(is_wrong[tested == each].mean()) for each in known]
        return float(np.average(errors, weights=counts)) if known else float(is_wrong.mean())

    def _forgotten(self, records: NDArray[np.int64], seed: int) -> Any:
        return self._tuning.model.trainer.reader.batch(records, seed)

    def _measured(
        self, read: Callable[[NDArray[np.int64], int], Any], ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The classes of some records, and whether the model is wrong. Shapes (n,) and (n,)."""
        model, classes, is_wrong = self._tuning.model, [], []
        with model.trainer.environment.entered():
            for first in range(0, len(ids), _RECORDS_AT_ONCE):
                batch = read(ids[first : first + _RECORDS_AT_ONCE], 0)
                inputs, targets = moved(batch, model.trainer.recipe.device)
                classes.append(targets.cpu().numpy())
                is_wrong.append((model.predict(inputs).argmax(dim=1) != targets).cpu().numpy())
        return np.concatenate(classes), np.concatenate(is_wrong)
