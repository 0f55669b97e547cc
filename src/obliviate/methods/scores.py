"""Scores: how well a state remembers single records.

The margin of the true class, z_y - logsumexp of the others, where a classifier is trained by
cross-entropy; minus the record's own loss otherwise; or whatever `Recipe.score` says. The records
are read once, before anything is written, and kept in memory: nothing is read when a state is
scored. States are scored in evaluation mode, on a module of their own, so that a replay in progress
is not disturbed.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from obliviate.errors import InvalidRecipe, TrainingFailed
from obliviate.recipe.user_code import named
from obliviate.training.batches import like
from obliviate.training.determinism import seed_generators
from obliviate.training.layout import key, keyed_hash
from obliviate.training.model import load_state, made_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from obliviate.states.update import State
    from obliviate.training.layout import Layout
    from obliviate.training.protocol import BlockTrainer

    Kind = Literal["score", "step", "margin", "loss", "single"]

CONTROLS = 32
MOST_ERASED = 128  # so many of the erased records are scored at most
_BATCHES_AT_ONCE = 4  # without gradients, several training batches fit where one did
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-2
_HALVES = (torch.float16, torch.bfloat16)
_CLASSES_FROM, _LOGITS = 2, 2
_REMEDY = (
    "give Recipe(score=...): a function (model, batch) -> one number for each record of the batch, "
    'the higher the better it is remembered; or choose the method "deepobliviate" or "exact"'
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some records in memory.

    Attributes:
        ids: Which. Shape (n,).
        batches: Their content, on the recipe's device.
        sizes: How many records each batch holds.
    """

    ids: NDArray[np.int64]
    batches: tuple[Any, ...]
    sizes: tuple[int, ...]


class Scorer:
    """Scores states on the erased records and on controls.

    Attributes:
        erased: The records to erase, as far as they can be read and scored.
        controls: Retained records of the same blocks.
        missing: How many erased records could not be read or scored.
    """

    def __init__(
        self,
        trainer: BlockTrainer,
        state: State,
        erased: NDArray[np.int64],
        gone: NDArray[np.int64],
    ) -> None:
        """Read the records and find out how to score them.

        Args:
            trainer: Whose recipe, data and environment to use; its live model is left alone.
            state: A state to try it on.
            erased: The records of the request.
            gone: All erased records, those of the request among them; the others are never read.

        Raises:
            InvalidRecipe: The loss has no form for single records, and the recipe no score.
            TrainingFailed: A retained record cannot be read.
        """
        self._recipe, self._environment = trainer.recipe, trainer.environment
        self._all: Sample | None = None  # until it is known which records can be scored
        with self._environment.entered():
            self._model = made_model(trainer.recipe)
        loss = trainer.recipe.loss
        self._loss = (
            copy.deepcopy(loss).to(trainer.recipe.device) if isinstance(loss, nn.Module) else loss
        )
        seed = trainer.recipe.seed
        self.controls = read(trainer, control_ids(trainer.layout, seed, erased, gone))
        chosen = erased[np.argsort(keyed_hash(erased, key(seed, "scored")))]
        self.erased = read_what_is_there(trainer, np.sort(chosen[:MOST_ERASED]))
        self._kind: Kind = self._kind_of(state)
        self._drop_what_cannot_be_scored(state)
        self.missing = min(len(erased), MOST_ERASED) - len(self.erased.ids)
        at_once = _BATCHES_AT_ONCE * trainer.recipe.batch_size
        self._all = merged(_joined([self.erased, self.controls]), at_once)

    @property
    def kind(self) -> Kind:
        """What a score is: "margin", minus a "loss" (of a "single" record at a time), "score"."""
        return self._kind

    def scores(self, state: State) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The scores of the erased records and of the controls under a state."""
        with self._environment.entered():
            self._load(state)
            scores = self._of(self._all or _joined([self.erased, self.controls]))
        return scores[: len(self.erased.ids)], scores[len(self.erased.ids) :]

    def erased_mean(self, state: State) -> float:
        """The mean score of the erased records under a state."""
        with self._environment.entered():
            self._load(state)
            return float(self._of(self.erased).mean())

    def _load(self, state: State) -> None:
        load_state(self._model, state)
        self._model.eval()
        seed_generators(key(self._recipe.seed, "score"), self._recipe.device)

    def _of(self, sample: Sample) -> NDArray[np.float64]:
        scored = [
            self._batch_scores(batch, size, self._kind)
            for batch, size in zip(sample.batches, sample.sizes, strict=True)
        ]
        return np.concatenate([np.empty(0), *scored])

    def _batch_scores(self, batch: Any, size: int, kind: Kind) -> NDArray[np.float64]:
        with named("scoring"):
            if kind == "single":
                return -np.array([self._loss_of(each) for each in singles(batch, size)])
            with torch.no_grad():
                if kind == "score":
                    assert self._recipe.score is not None  # noqa: S101 - the kind says so
                    return _as_scores(self._recipe.score(self._model, batch), size)
                inputs, targets = batch
                outputs = self._model(inputs)
                if kind == "margin":
                    return margins(outputs, targets).cpu().numpy()
                return -self._losses(outputs, targets)

    def _losses(self, outputs: Tensor, targets: Tensor) -> NDArray[np.float64]:
        assert self._loss is not None  # noqa: S101 - the kind says so
        each = range(len(outputs))
        losses = [float(self._loss(outputs[at : at + 1], targets[at : at + 1])) for at in each]
        return np.array(losses)

    def _loss_of(self, batch: Any) -> float:
        """The loss of a batch, as in training but for the mode; a step may need gradients."""
        if self._recipe.step is not None:
            loss = self._recipe.step(self._model, batch)
            return float("nan") if loss is None else float(loss.detach())
        inputs, targets = batch
        assert self._loss is not None  # noqa: S101 - the recipe saw to it
        with torch.no_grad():
            return float(self._loss(self._model(inputs), targets))

    # Finding out how

    def _kind_of(self, state: State) -> Kind:
        if self._recipe.score is not None:
            return "score"
        if not len(self.controls.ids):
            return "single"
        batch, size = self.controls.batches[0], self.controls.sizes[0]
        with self._environment.entered():
            self._load(state)
            kind = self._loss_kind(batch, size)
            if kind != "single" and _is_cross_entropy(self._recipe.loss):
                return kind  # whatever its weights and ignored targets do to a batch's mean
            losses = self._checked_losses(batch, size, kind)
            if kind == "margin":
                scores = torch.from_numpy(self._batch_scores(batch, size, kind))
                expected = nn.functional.softplus(-scores).numpy()
                is_own = np.allclose(expected, losses, rtol=1e-3, atol=1e-3)
                return "margin" if is_own else "loss"
            return kind

    def _checked_losses(self, batch: Any, size: int, kind: Kind) -> NDArray[np.float64]:
        """The losses of single records, if their mean is the loss of the batch, and of a half."""
        try:
            losses = -self._batch_scores(batch, size, "single" if kind == "single" else "loss")
        except TrainingFailed as error:
            message = f"the loss cannot be taken of a single record: {error.message}"
            raise InvalidRecipe(message, hint=_REMEDY) from error
        is_half = any(each.dtype in _HALVES for each in self._model.parameters())
        tolerance = _HALF_TOLERANCE if is_half else _TOLERANCE
        for count in {size, (size + 1) // 2}:
            part = sliced(batch, slice(count), size)
            with named("scoring"):
                whole, mean = self._loss_of(part), float(losses[:count].mean())
            if not abs(mean - whole) <= tolerance * (1 + abs(whole)):
                raise InvalidRecipe(
                    f"the loss has no form for single records: of {count} records it is "
                    f"{whole:.6g}, their own losses have the mean {mean:.6g}",
                    hint=_REMEDY,
                )
        return losses

    def _loss_kind(self, batch: Any, size: int) -> Kind:
        """What the outputs allow for."""
        is_pair = isinstance(batch, list | tuple) and len(batch) == 2  # noqa: PLR2004
        if self._recipe.step is not None or not is_pair:
            return "single"
        inputs, targets = batch
        with named("scoring"), torch.no_grad():
            outputs = self._model(inputs)
        if not (_has_rows(outputs, size) and _has_rows(targets, size)):
            return "single"
        return "margin" if _is_classification(outputs, targets) else "loss"

    def _drop_what_cannot_be_scored(self, state: State) -> None:
        """Leave out records without a finite score, and erased ones that the model refuses."""
        try:
            erased, controls = self.scores(state)
        except TrainingFailed:
            kept = self.erased
            self.erased = NOTHING
            _, controls = self.scores(state)  # controls must be scored, whatever stands for S
            erased = np.full(len(kept.ids), np.nan)
            self.erased = kept
        self.erased = _without(self.erased, np.isfinite(erased))
        self.controls = _without(self.controls, np.isfinite(controls))


def margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """z_y - logsumexp of the others: the log odds of the target. Shape (n,), double precision."""
    logits, at = outputs.double(), targets.long().unsqueeze(1)
    true = logits.gather(1, at).squeeze(1)
    return true - logits.scatter(1, at, float("-inf")).logsumexp(dim=1)


def mean_score(values: NDArray[np.float64]) -> float | None:
    """The mean over some records; None where there are none."""
    return float(values.mean()) if len(values) else None


def singles(batch: Any, size: int) -> list[Any]:
    """The records of a batch, as batches of one.

    Raises:
        InvalidRecipe: Nothing in the batch has a row for each record.
    """
    if size > 1 and not _is_sliced(batch, size):
        raise InvalidRecipe(
            f"a batch of {size} records cannot be taken apart: nothing in it ({type(batch)}) has "
            "one row for each record",
            hint=_REMEDY,
        )
    return [sliced(batch, slice(at, at + 1), size) for at in range(size)]


def sliced(thing: Any, rows: slice, size: int) -> Any:
    """Some records' part of a collated batch."""
    if isinstance(thing, Tensor):
        return thing[rows] if _has_rows(thing, size) else thing
    if isinstance(thing, Mapping):
        return like(thing, {name: sliced(value, rows, size) for name, value in thing.items()})
    if isinstance(thing, list | tuple):
        if len(thing) == size and all(isinstance(each, str | bytes) for each in thing):
            return thing[rows]  # text is collated into a list of texts
        values = [sliced(value, rows, size) for value in thing]
        return type(thing)(*values) if hasattr(thing, "_fields") else values
    return thing


def _is_sliced(thing: Any, size: int) -> bool:
    """Whether something in a batch has a row for each record."""
    if isinstance(thing, Mapping):
        return any(_is_sliced(value, size) for value in thing.values())
    if isinstance(thing, list | tuple):
        is_of_text = len(thing) == size and all(isinstance(each, str | bytes) for each in thing)
        return is_of_text or any(_is_sliced(value, size) for value in thing)
    return _has_rows(thing, size)


def _has_rows(thing: Any, size: int) -> bool:
    return isinstance(thing, Tensor) and thing.ndim > 0 and len(thing) == size


def _is_classification(outputs: Tensor, targets: Tensor) -> bool:
    is_shaped = outputs.ndim == _LOGITS and targets.ndim == 1 and outputs.is_floating_point()
    if not is_shaped or targets.is_floating_point() or targets.dtype == torch.bool:
        return False
    classes = outputs.shape[1]
    return classes >= _CLASSES_FROM and bool(((targets >= 0) & (targets < classes)).all())


def _is_cross_entropy(loss: Any) -> bool:
    while isinstance(loss, partial):
        loss = loss.func
    known = (nn.functional.cross_entropy, nn.functional.nll_loss)
    return loss in known or isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss)


def _as_scores(scores: Any, size: int) -> NDArray[np.float64]:
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (size,):
        found = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores)
        raise InvalidRecipe(
            f"score gave {found} for a batch of {size} records",
            hint="it must give a tensor with one number for each record",
        )
    return scores.detach().double().cpu().numpy()


# Reading


def control_ids(
    layout: Layout, seed: int, erased: NDArray[np.int64], gone: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Retained records of the blocks of some records; of the nearest blocks, where few are left.

    Args:
        layout: Who is where.
        seed: The run's.
        erased: The records of the request.
        gone: All erased records, sorted.
    """
    blocks = np.unique(layout.block_of(erased))
    wanted = min(max(CONTROLS, len(erased)), MOST_ERASED)
    distance = np.abs(np.arange(1, layout.blocks + 1)[:, None] - blocks[None, :]).min(axis=1)
    found = np.empty(0, dtype=np.int64)
    for away in range(layout.blocks):
        near = [layout.members(int(block) + 1) for block in np.flatnonzero(distance == away)]
        fresh = np.setdiff1d(np.concatenate([np.empty(0, dtype=np.int64), *near]), gone)
        order = np.argsort(keyed_hash(fresh, key(seed, "controls")))
        found = np.concatenate([found, fresh[order][: wanted - len(found)]])
        if len(found) >= wanted:
            break
    return np.sort(found)


def read(trainer: BlockTrainer, ids: NDArray[np.int64]) -> Sample:
    """Read records.

    Raises:
        TrainingFailed: The dataset raised.
    """
    at_once = _BATCHES_AT_ONCE * trainer.recipe.batch_size
    parts = [ids[start : start + at_once] for start in range(0, len(ids), at_once)]
    seed = key(trainer.recipe.seed, "score")
    batches = tuple(trainer.reader.batch(part, seed) for part in parts)
    return Sample(ids=ids, batches=batches, sizes=tuple(map(len, parts)))


def read_what_is_there(trainer: BlockTrainer, ids: NDArray[np.int64]) -> Sample:
    """Read records that may be gone already; those for which the dataset raises are left out."""
    try:
        return read(trainer, ids)
    except TrainingFailed:
        found = []
        for record in ids:
            with contextlib.suppress(TrainingFailed):
                found.append(read(trainer, np.array([record])))
        return _joined(found)


def _joined(samples: Sequence[Sample]) -> Sample:
    return Sample(
        ids=np.concatenate([NOTHING.ids, *(each.ids for each in samples)]),
        batches=tuple(batch for each in samples for batch in each.batches),
        sizes=tuple(size for each in samples for size in each.sizes),
    )


def merged(sample: Sample, at_once: int) -> Sample:
    """A sample in one batch, where its batches are tuples of tensors and few enough records."""
    size = sum(sample.sizes)
    if size > at_once or not sample.batches or not all(map(_is_of_tensors, sample.batches)):
        return sample
    columns = list(zip(*sample.batches, strict=True))
    if any(len({column.shape[1:] for column in each}) > 1 for each in columns):
        return sample
    whole = type(sample.batches[0])(torch.cat(column) for column in columns)
    return Sample(ids=sample.ids, batches=(whole,), sizes=(size,))


def _is_of_tensors(batch: Any) -> bool:
    return type(batch) in (list, tuple) and all(
        isinstance(each, Tensor) and each.ndim > 0 and len(each) == len(batch[0]) for each in batch
    )


def _without(sample: Sample, is_kept: NDArray[np.bool_]) -> Sample:
    if is_kept.all():
        return sample
    single = [
        each
        for batch, size in zip(sample.batches, sample.sizes, strict=True)
        for each in singles(batch, size)
    ]
    kept = [batch for batch, keep in zip(single, is_kept, strict=True) if keep]
    return Sample(ids=sample.ids[is_kept], batches=tuple(kept), sizes=(1,) * len(kept))


NOTHING = Sample(ids=np.empty(0, dtype=np.int64), batches=(), sizes=())
