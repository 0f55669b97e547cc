"""View: what a state does on the erased records, on controls, and on references.

References are records of the same kind that were never trained on. What a model does on them is
what it does on records that it never saw: so they show how the erased records should be scored.
Where records come as (input, target), they are also looked at with the target of another: so does
a record look whose target is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from obliviate.methods.scores import losses, margins
from obliviate.recipe.user_code import named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from obliviate.methods.sample import Sample
    from obliviate.methods.scorer import Scorer
    from obliviate.states.update import State

    Scores = NDArray[np.float64]

FEWEST_CLASSES = 3  # with two, what is left beside the target says nothing


@dataclass(frozen=True, kw_only=True)
class View:
    """What one state does on n erased records, c controls and r references.

    Attributes:
        erased: Scores. Shape (n,).
        controls: Shape (c,).
        references: Shape (r,).
        mispaired: Scores of references with the target of another. Shape (r,), or (0,) where
            records have no targets of their own.
        logits: Of the erased records and of the references, for a classifier of three classes or
            more. Shapes (n, C) and (r, C).
        labels: Their classes. Shapes (n,) and (r,).
        people: Whose the references are, by number; None where that is not known. Shape (r,).
    """

    erased: Scores
    controls: Scores
    references: Scores
    mispaired: Scores
    logits: tuple[Scores, Scores] | None = None
    labels: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    people: NDArray[np.int64] | None = None

    @property
    def whose(self) -> NDArray[np.int64]:
        """Whose the references are: each somebody's own, where that is not known. Shape (r,)."""
        return np.arange(len(self.references)) if self.people is None else self.people

    @property
    def is_finite(self) -> bool:
        """Whether every score is."""
        scores = (self.erased, self.controls, self.references)
        return all(bool(np.isfinite(each).all()) for each in scores)

    @property
    def accuracy(self) -> float | None:
        """The share of references that are classified rightly; None without logits."""
        if self.logits is None or self.labels is None:
            return None
        return float((self.logits[1].argmax(axis=1) == self.labels[1]).mean())


class Viewer:
    """Views states."""

    def __init__(
        self, scorer: Scorer, references: Sample, people: NDArray[np.int64] | None = None
    ) -> None:
        """Remember what to look at.

        Args:
            scorer: Of the erased records and the controls.
            references: In memory.
            people: Whose these are, where it is known. Shape (r,).
        """
        self.scorer, self.references, self.people = scorer, references, people

    def view(self, state: State) -> View:
        """What a state does.

        Raises:
            TrainingFailed: A record cannot be scored.
        """
        scorer = self.scorer
        with scorer.loaded(state) as model, named("scoring erased records and references"):
            if scorer.kind == "margin":
                return self._of_classifier(model)
            erased, controls, references = map(
                scorer.scored, (scorer.erased, scorer.controls, self.references)
            )
            mispaired = np.concatenate([np.empty(0), *self._mispaired(model)])
        return View(
            erased=erased,
            controls=controls,
            references=references,
            mispaired=mispaired,
            people=self.people,
        )

    def _of_classifier(self, model: nn.Module) -> View:
        (erased, own), (controls, theirs), (references, labels) = (
            _outputs(model, each)
            for each in (self.scorer.erased, self.scorer.controls, self.references)
        )
        has_rest = references.shape[1] >= FEWEST_CLASSES
        return View(
            erased=margins(erased, own).numpy(),
            controls=margins(controls, theirs).numpy(),
            references=margins(references, labels).numpy(),
            mispaired=margins(references, _another(labels)).numpy(),
            logits=(erased.numpy(), references.numpy()) if has_rest else None,
            labels=(own.numpy(), labels.numpy()) if has_rest else None,
            people=self.people,
        )

    def _mispaired(self, model: nn.Module) -> Iterator[Scores]:
        """Scores of references with the target of another, batch by batch."""
        if self.scorer.kind != "loss":
            return
        for batch in self.references.batches:
            inputs, targets = batch
            with torch.no_grad():
                yield -losses(self.scorer.recipe, model(inputs), _another(targets))


def _another(targets: Tensor) -> Tensor:
    """The target of another record for each, and of another kind as far as there is one."""
    if targets.ndim == 1 and not targets.is_floating_point():
        order = torch.argsort(targets, stable=True)
        counts = torch.unique(targets, return_counts=True)[1]
        most = int(counts.max()) if len(targets) else 0
        return targets[order.roll(max(1, most))][torch.argsort(order)]
    return targets.roll(1, dims=0)


def _outputs(model: nn.Module, sample: Sample) -> tuple[Tensor, Tensor]:
    """Logits in double precision, and classes; on the CPU. Shapes (n, C) and (n,)."""
    if not sample.batches:
        return torch.empty(0, FEWEST_CLASSES, dtype=torch.float64), torch.empty(0).long()
    with torch.no_grad():
        pairs = [(model(inputs).double().cpu(), targets) for inputs, targets in sample.batches]
    logits, targets = zip(*pairs, strict=True)
    return torch.cat(logits), torch.cat([each.long().cpu() for each in targets])
