"""The contract of a method: what every run may rely on, whatever it is that forgets."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate.methods.method import Context, Method, Progress
from obliviate.methods.registry import label_of, method_from, method_of, names, options_of

if TYPE_CHECKING:
    from pathlib import Path

_RECORDS, _BLOCKS = 60, 12


class MethodContract:
    """Tests of a method; inherit from it and give `method`.

    Attributes:
        method: The method to test, with options that let it stop before the end of a short chain,
            where it ever does.
    """

    method: Method

    def _recipe(self) -> ob.Recipe:
        return ob.Recipe(
            model=partial(nn.Linear, 4, 3),
            optimizer=partial(torch.optim.SGD, lr=0.1),
            loss=nn.functional.cross_entropy,
            batch_size=5,
            seed=3,
        )

    def _data(self) -> TensorDataset:
        generator = torch.Generator().manual_seed(7)
        inputs = torch.randn(_RECORDS, 4, generator=generator)
        return TensorDataset(inputs, torch.arange(_RECORDS) % 3)

    def _run(self, folder: Path, exclude: tuple[int, ...] = ()) -> ob.Run:
        return ob.fit(self._recipe(), self._data(), folder, blocks=_BLOCKS, exclude=exclude)

    def test_it_can_be_named(self) -> None:
        """Its name, with its options, gives it everywhere."""
        assert self.method.name in names()
        assert method_of(label_of(self.method)) == self.method
        assert method_from(json.loads(json.dumps(options_of(self.method)))) == self.method

    def test_it_makes_up_its_mind_in_words(self) -> None:
        """A decision is a Decision with a reason; asked twice, it is the same."""
        if self.method.functional:
            return  # it begins with a trace, which a run has: see the tests below
        pursuit = self.method.begin(Context(affected=(1,), blocks=9))
        for lag in range(1, 9):
            progress = Progress(series=[2.0**-k for k in range(lag)], block=lag, until=9)
            decision = pursuit.decide(progress)
            assert decision.reason
            assert pursuit.decide(progress) == decision

    def test_what_it_leaves_is_what_it_says(self, tmp_path: Path) -> None:
        """Exact is training without; the rest is called approximate until it is settled."""
        with self._run(tmp_path / "run") as run, self._run(tmp_path / "never", (7, 8)) as never:
            erasure = run.forget(records=[7, 8], method=self.method)
            assert erasure.method == self.method.name
            assert (erasure.digest == never.digest) == (erasure.guarantee == "exact")
            assert all(torch.isfinite(each).all() for each in run.model.parameters())
            run.settle()
            assert run.digest == never.digest
            assert run.verify().passed

    def test_it_forgets_again_on_what_it_left(self, tmp_path: Path) -> None:
        """A second request, opened anew, and a request that waits."""
        with self._run(tmp_path / "run") as run:
            run.forget(records=[7], method=self.method)
        with ob.load(tmp_path / "run", self._recipe(), self._data()) as run:
            run.forget(records=[20], method=self.method)
            run.request(records=[33], method=self.method)
            assert not run.work(everything=True).failed
            with self._run(tmp_path / "never", (7, 20, 33)) as never:
                run.settle()
                assert run.digest == never.digest
