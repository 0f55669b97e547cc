"""The contract of a baseline: what a table that compares them may rely on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate.errors import InvalidOption, NothingLeft, UnknownRecord
from obliviate.events import Event, finish
from obliviate.lab.baselines.registry import label_of, names, unlearner_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from obliviate.lab.baselines.unlearner import Cost, Prepared, Unlearner

_RECORDS, _BLOCKS, _EPOCHS = 60, 4, 2


class Watched(Dataset[Any]):
    """A dataset that raises where it is asked for somebody who was forgotten."""

    def __init__(self, data: Dataset[Any]) -> None:
        self._data = data
        self.forgotten: set[int] = set()

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[arg-type]

    def __getitem__(self, record: int) -> Any:
        assert record not in self.forgotten, f"record {record} is read after it was forgotten"
        return self._data[record]


class UnlearnerContract:
    """Tests of a baseline; inherit from it and give `unlearner`.

    Attributes:
        unlearner: The baseline to test.
        records: Who is forgotten; 20 is forgotten later.
    """

    unlearner: Unlearner
    records: ClassVar[tuple[int, ...]] = (7, 8)

    def project(self) -> ob.Project:
        """What it is tried on: three classes; override it for a baseline that needs another."""
        generator = torch.Generator().manual_seed(7)
        recipe = ob.Recipe(
            model=partial(nn.Linear, 4, 3),
            optimizer=partial(torch.optim.SGD, lr=0.1),
            loss=nn.functional.cross_entropy,
            batch_size=5,
            epochs=_EPOCHS,
            seed=3,
        )
        inputs = torch.randn(_RECORDS, 4, generator=generator)
        data = TensorDataset(inputs, torch.arange(_RECORDS) % 3)
        return ob.Project(recipe=recipe, data=data, blocks=_BLOCKS)

    def inputs(self, project: ob.Project) -> Any:
        """What predictions are asked for."""
        return torch.stack([project.data[record][0] for record in range(8)])

    def _prepared(self, project: ob.Project, folder: Path) -> Prepared:
        folder.mkdir()
        prepared: Prepared = finish(self.unlearner.prepare(project, folder))
        return prepared

    def _forget(self, prepared: Prepared, records: Sequence[int]) -> Cost:
        events, told = prepared.forget(np.array(records, dtype=np.int64)), 0
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                cost: Cost = stop.value
                assert told, "it tells nobody how far it has come"
                return cost
            assert isinstance(event, Event)
            told += 1

    def test_it_can_be_named(self) -> None:
        """Its name, with its options, gives it."""
        assert self.unlearner.name in names()
        assert unlearner_of(label_of(self.unlearner)) == self.unlearner

    def test_it_answers_before_and_afterwards(self, tmp_path: Path) -> None:
        """Predictions are finite, the same when asked twice, and what it took is told."""
        project = self.project()
        inputs, prepared = self.inputs(project), self._prepared(project, tmp_path / "own")
        first = self._answers(prepared, inputs)
        assert prepared.cost.seconds > 0
        assert prepared.cost.records > 0
        assert prepared.models >= 1
        assert prepared.disk_bytes >= 0
        cost = self._forget(prepared, self.records)
        assert cost.seconds > 0
        assert min(cost.steps, cost.records, cost.share) >= 0
        assert self._answers(prepared, inputs).shape == first.shape
        assert prepared.model is None or not prepared.model.training
        prepared.close()
        prepared.close()

    def test_the_forgotten_are_not_read_again(self, tmp_path: Path) -> None:
        """Not by a later request, nor by one for the same records, which changes nothing."""
        project = self.project()
        data, inputs = Watched(project.data), self.inputs(project)
        project = ob.Project(recipe=project.recipe, data=data, blocks=project.blocks)
        prepared = self._prepared(project, tmp_path / "own")
        self._forget(prepared, self.records)
        data.forgotten.update(self.records)
        answers = self._answers(prepared, inputs)
        again = self._forget(prepared, self.records)
        assert (again.steps, again.records, again.share) == (0, 0, 0)
        assert torch.equal(self._answers(prepared, inputs), answers)
        self._forget(prepared, [*self.records, 20])
        self._answers(prepared, inputs)
        prepared.close()

    def test_the_same_again_gives_the_same_bits(self, tmp_path: Path) -> None:
        """Whatever the state of the process's generators."""
        answers = []
        for at in range(2):
            project = self.project()
            torch.manual_seed(at)
            prepared = self._prepared(project, tmp_path / str(at))
            np.random.seed(at)
            self._forget(prepared, self.records)
            answers.append(self._answers(prepared, self.inputs(project)))
            prepared.close()
        assert torch.equal(*answers)

    def test_what_cannot_be_forgotten_changes_nothing(self, tmp_path: Path) -> None:
        """Nobody, somebody unknown, or everybody."""
        project = self.project()
        inputs, prepared = self.inputs(project), self._prepared(project, tmp_path / "own")
        before = self._answers(prepared, inputs)
        everybody = range(len(project.data))  # type: ignore[arg-type]
        for records, error in (
            ([], InvalidOption),
            ([-1], UnknownRecord),
            (everybody, NothingLeft),
        ):
            with pytest.raises(error):
                self._forget(prepared, list(records))
        assert torch.equal(self._answers(prepared, inputs), before)
        prepared.close()

    def _answers(self, prepared: Prepared, inputs: Any) -> Tensor:
        outputs = prepared.predict(inputs)
        assert outputs.isfinite().all()
        assert not outputs.requires_grad
        assert torch.equal(prepared.predict(inputs), outputs)
        return outputs
