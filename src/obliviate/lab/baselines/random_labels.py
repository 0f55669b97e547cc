"""The baseline "random_labels": teach the forgotten something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from obliviate.lab.baselines.needs import classes
from obliviate.lab.baselines.tuned import Tuned
from obliviate.lab.baselines.tuning import Part, Term, Tuning
from obliviate.recipe.deal import key, keyed_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from obliviate.lab.baselines.needs import Need


@dataclass(frozen=True, kw_only=True)
class RandomLabels(Tuned):
    """In each epoch the forgotten are trained on with wrong labels, then the retained with theirs.

    Source: Golatkar et al. 2020 (arXiv 1911.04933) and Hayase et al. 2020 (arXiv 2012.11849); the
    order and ten epochs as in the code of SalUn (Fan et al. 2023). Every record is given one label
    of the other classes, for good: theirs draws anew, the true one among them, in every epoch.
    """

    epochs: int = 10
    name: ClassVar[str] = "random_labels"
    needs: ClassVar[tuple[Need, ...]] = (classes,)

    def steps(self, tuning: Tuning) -> Iterator[Sequence[Term]]:
        """Each epoch goes through the forgotten, then through the retained."""
        others = OtherLabels(tuning)
        for epoch in range(self.epochs):
            for batch in tuning.batches(tuning.request.records, epoch):
                yield (Term(records=batch, loss=others.loss),)
            for batch in tuning.batches(tuning.request.retained, epoch):
                yield (Term(records=batch),)


class OtherLabels:
    """One label for each record that is not its own."""

    def __init__(self, tuning: Tuning) -> None:
        """Find out how many classes there are."""
        trainer, some = tuning.model.trainer, tuning.request.retained[:1]
        self._trainer, self._key = trainer, key(trainer.recipe.seed, "another label")
        inputs, _ = trainer.reader.batch(some)
        with torch.no_grad():
            self.classes = int(trainer.model.eval()(inputs).shape[1])

    def of(self, records: np.ndarray[tuple[int, ...], np.dtype[np.int64]], own: Tensor) -> Tensor:
        """The labels of some records, each of the other classes equally likely. Shape (n,)."""
        drawn = keyed_hash(records, self._key) % np.uint64(self.classes - 1) + np.uint64(1)
        further = torch.from_numpy(drawn.astype(np.int64)).to(own)
        is_class = (own >= 0) & (own < self.classes)  # a loss may ignore others
        return torch.where(is_class, (own + further) % self.classes, own)

    def loss(self, part: Part) -> Tensor:
        """The recipe's loss, with the other labels."""
        inputs, targets = part.batch
        loss = self._trainer.forward([inputs, self.of(part.records, targets)])
        assert loss is not None  # noqa: S101 - what is needed was looked at
        return loss
