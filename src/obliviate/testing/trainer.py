"""The contract of a trainer: what chains, erasures and verification rely on."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate.run.make import new_layout, trainer_of
from obliviate.states.update import digest
from obliviate.training.determinism import environment_facts
from obliviate.training.first_step import probe
from obliviate.training.protocol import Trained, trained_block

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from obliviate.training.protocol import BlockTrainer, Checkpoint

_RECORDS, _BLOCKS = 60, 6
_NOBODY = np.array([], dtype=np.int64)


class Forbidding(Dataset[Any]):
    """Records, some of which must not be read any more."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data
        self.forbidden: set[int] = set()

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, record: int) -> Any:
        """A record."""
        assert record not in self.forbidden, f"record {record} was read after it was erased"
        return self.data[record]


class TrainerContract:
    """Tests of a trainer; inherit from it and give `recipe`.

    Attributes:
        recipe: One whose class names the trainer (`Recipe.trainer`), and that can be trained on
            `data`, in batches of at most five.
    """

    recipe: ob.Recipe

    def data(self) -> Dataset[Any]:
        """Sixty records; by default of four features, in three classes."""
        generator = torch.Generator().manual_seed(7)
        inputs = torch.randn(_RECORDS, 4, generator=generator)
        return TensorDataset(inputs, torch.arange(_RECORDS) % 3)

    def _trainer(self, data: Dataset[Any] | None = None) -> BlockTrainer:
        return trainer_of(
            self.recipe,
            self.data() if data is None else data,
            new_layout(
                self.recipe, _RECORDS, _BLOCKS, smallest_batch=self.recipe.smallest_batch or 1
            ),
            environment=environment_facts(),
            content_key=bytes(32),
        )

    def _trained(
        self,
        trainer: BlockTrainer,
        *,
        start: Checkpoint | None = None,
        blocks: Iterable[int] = range(1, _BLOCKS + 1),
        erased: NDArray[np.int64] = _NOBODY,
    ) -> list[Trained]:
        items = trainer.train(start or trainer.initial(), blocks, erased)
        return [each for each in items if isinstance(each, Trained)]

    def _digests(self, trainer: BlockTrainer, **options: Any) -> list[str]:
        return [digest(each.checkpoint.model) for each in self._trained(trainer, **options)]

    def test_same_blocks_same_bits(self) -> None:
        """Whatever the trainer did before, and whatever the process has drawn."""
        digests = self._digests(self._trainer())
        assert len(digests) == len(set(digests)) == _BLOCKS
        torch.manual_seed(99)
        random.seed(99)
        np.random.seed(99)
        trainer = self._trainer()
        self._trained(trainer, blocks=[4, 5])
        before = torch.get_rng_state(), random.getstate()
        assert self._digests(trainer) == digests
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]

    def test_a_block_follows_from_the_checkpoint_before_it(self) -> None:
        """What is carried is in the checkpoint, which training leaves as it is."""
        trained = self._trained(self._trainer())
        for before, after in pairwise(trained):
            kept = digest(before.checkpoint.model)
            trainer = self._trainer()
            again = trained_block(trainer, after.block, lambda: before.checkpoint, _NOBODY)  # noqa: B023
            assert digest(again.checkpoint.model) == digest(after.checkpoint.model)
            assert (again.loss, again.block) == (after.loss, after.block)
            assert digest(before.checkpoint.model) == kept
            carried = after.checkpoint.optimizer, again.checkpoint.optimizer
            assert len({digest(each or {}) for each in carried}) == 1
        if self.recipe.optimizer_state == "fresh":
            assert not any(each.checkpoint.optimizer for each in trained)

    def test_erased_records_are_never_read_and_change_nothing_before_them(self) -> None:
        """The blocks before theirs keep their bits; theirs does not."""
        data = Forbidding(self.data())
        trainer = self._trainer(data)
        digests = self._digests(trainer)
        erased = np.sort(trainer.layout.members(3)[:2])
        data.forbidden = set(erased.tolist())
        trained = self._trained(trainer, erased=erased)
        without = [digest(each.checkpoint.model) for each in trained]
        assert without[:2] == digests[:2]
        assert without[2] != digests[2]
        for each in trained:
            is_erased = np.isin(trainer.layout.members(each.block), erased)
            assert ((each.contents == 0) == is_erased).all()
            assert (each.contents == trainer.reader.contents(each.block, erased)).all()

    def test_an_empty_block_moves_nothing_but_the_schedule(self) -> None:
        """The block behind it begins where the one before it ended, at its own steps."""
        trainer = self._trainer()
        erased = np.sort(trainer.layout.members(3))
        trained = self._trained(trainer, erased=erased)
        before, empty, after = trained[1:4]
        assert digest(empty.checkpoint.model) == digest(before.checkpoint.model)
        assert empty.loss is None
        assert not empty.is_learning
        again = trained_block(self._trainer(), 4, lambda: before.checkpoint, _NOBODY)
        assert digest(again.checkpoint.model) == digest(after.checkpoint.model)

    def test_states_have_the_names_that_it_says(self) -> None:
        """Every state has the entries of the first; parameters and buffers are among them."""
        trainer = self._trainer()
        initial = trainer.initial().model
        form = {name: (tensor.dtype, tensor.shape) for name, tensor in initial.items()}
        assert trainer.parameters
        assert not trainer.parameters & trainer.buffers
        assert trainer.parameters | trainer.buffers <= form.keys()
        for each in self._trained(trainer):
            state = each.checkpoint.model
            assert {name: (value.dtype, value.shape) for name, value in state.items()} == form

    def test_trying_steps_is_no_training(self) -> None:
        """Tried twice, steps give the same; training is what it was."""
        trainer = self._trainer()
        probe(trainer, _NOBODY)
        assert trainer.fingerprint() == self._trainer().fingerprint()
        assert self._digests(trainer) == self._digests(self._trainer())

    def test_a_run_forgets_with_it(self, tmp_path: Path) -> None:
        """Exact, approximate and settled, as if it had never been trained on them."""
        data = Forbidding(self.data())
        never = ob.fit(self.recipe, data, tmp_path / "never", blocks=_BLOCKS, exclude=[7, 8])
        with never, ob.fit(self.recipe, data, tmp_path / "run", blocks=_BLOCKS) as run:
            assert run.forget(records=[7], method="exact").guarantee == "exact"
            run.forget(records=[8], method="deepobliviate:epsilon=9,blocks=1")
            data.forbidden = {7, 8}
            run.settle()
            assert run.digest == never.digest
            assert run.verify().passed
        with ob.load(tmp_path / "run", self.recipe, data) as run:
            assert run.digest == never.digest
            run.request(records=[20])
            assert not run.work(everything=True).failed
            assert run.guarantee == "exact"
