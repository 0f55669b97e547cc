"""The baseline "amnesiac": take back the steps that the records had a part in."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from safetensors.torch import load, save

from obliviate.disk.paths import naming
from obliviate.lab.baselines.finetune import FineTune
from obliviate.lab.baselines.needs import no_averages, steps
from obliviate.lab.baselines.single import Request, SingleModel, Work, untrained
from obliviate.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from obliviate.events import Events
    from obliviate.lab.baselines.needs import Need
    from obliviate.recipe.recipe import Project
    from obliviate.training.batches import Fetched


@dataclass(frozen=True, kw_only=True)
class Amnesiac(FineTune):
    """Amnesiac unlearning: the update of every step is kept, and subtracted.

    What later steps made of the records is not taken back, and many small steps weigh more than
    they did. Buffers, such as BatchNorm's, stay. Every step takes the size of the model on disk;
    whoever knows beforehand who may ask, needs to keep only their batches.

    Source: Graves, Nagisetty, Ganesh 2021 (arXiv 2010.10981), who train on a little afterwards
    where much was taken off; no epoch of that is the default, as the method itself has none.

    Attributes:
        epochs: How often the retained are gone through afterwards.
    """

    epochs: int = 0
    name: ClassVar[str] = "amnesiac"
    fewest_epochs: ClassVar[int] = 0
    needs: ClassVar[tuple[Need, ...]] = (steps, no_averages)

    def prepare(self, project: Project, folder: Path) -> Events[SingleModel]:
        """See `Unlearner.prepare`; the updates are kept in the folder."""
        updates = Updates(folder)
        model = untrained(project, self, partial(self._undo, updates), needs=self.needs_of(project))
        with updates.kept_of(model.trainer):
            yield from model.prepare()
        model.disk_bytes = updates.size_bytes
        return model

    def _undo(self, updates: Updates, model: SingleModel, request: Request) -> Events[Work]:
        touched = updates.of(request.records)
        for number in touched:
            updates.subtract(number, model.model)
        work = yield from self.forget(model, request)
        updates.drop(touched)
        model.disk_bytes = updates.size_bytes
        return work


class Updates:
    """What each step of training did to the weights, in one file for each."""

    def __init__(self, folder: Path) -> None:
        """Keep nothing yet.

        Args:
            folder: An empty one.
        """
        self._folder = folder
        self._records: dict[int, NDArray[np.int64]] = {}

    @property
    def size_bytes(self) -> int:
        """What is kept, on disk."""
        with naming(self._folder):
            return sum(self._file(number).stat().st_size for number in self._records)

    @contextlib.contextmanager
    def kept_of(self, trainer: object) -> Iterator[None]:
        """Keep the update of every step that a trainer makes."""
        assert isinstance(trainer, Trainer)  # noqa: S101 - what is needed was looked at
        trainer.around_step = partial(self._around, trainer.model)
        try:
            yield
        finally:
            del trainer.around_step

    def of(self, records: NDArray[np.int64]) -> list[int]:
        """The numbers of the steps that some records had a part in, of those that are kept."""
        return [at for at, batch in self._records.items() if np.isin(batch, records).any()]

    def update(self, number: int) -> dict[str, Tensor]:
        """What a step did, by the names of the weights."""
        with naming(self._folder):
            return load(self._file(number).read_bytes())

    def subtract(self, number: int, model: nn.Module) -> None:
        """Take back what a step did."""
        update = self.update(number)
        with torch.no_grad():
            for name, each in _weights(model).items():
                each.sub_(update[name].to(each.device))

    def drop(self, numbers: Sequence[int]) -> None:
        """Keep some no longer."""
        with naming(self._folder):
            for number in numbers:
                self._file(number).unlink()
                del self._records[number]

    @contextlib.contextmanager
    def _around(self, model: nn.Module, batch: Sequence[Fetched]) -> Iterator[None]:
        before = {name: each.detach().clone() for name, each in _weights(model).items()}
        yield
        after = _weights(model)
        update = {name: (after[name].detach() - each).cpu() for name, each in before.items()}
        number = len(self._records)
        with naming(self._folder):
            self._file(number).write_bytes(save(update))
        self._records[number] = np.concatenate([each.microbatch.records for each in batch])

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.safetensors"


def _weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, tied weights once."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}
