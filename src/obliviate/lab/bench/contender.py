"""Contenders: what is compared, the methods of the chain behind the contract of baselines."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from obliviate.errors import InvalidOption, UnknownMethod
from obliviate.events import finish
from obliviate.lab.baselines import Cost, Unlearner, unlearner_of
from obliviate.lab.baselines import label_of as label_of_baseline
from obliviate.lab.baselines import names as names_of_baselines
from obliviate.lab.fitting import fitting
from obliviate.methods.method import Method
from obliviate.methods.registry import label_of as label_of_method
from obliviate.methods.registry import method_of, options_of
from obliviate.methods.registry import names as names_of_methods
from obliviate.recipe.deal import is_among
from obliviate.text import shown
from obliviate.training.batches import moved

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from obliviate.erasure.results import Erasure
    from obliviate.events import Events
    from obliviate.recipe.recipe import Project
    from obliviate.run import Run

ALL, CHAIN, BASELINES = "all", "chain", "baselines"
RETRAIN = "retrain"
"""The baseline that all others are measured against: it is in every comparison."""


@dataclass(frozen=True, kw_only=True)
class OnChain(Unlearner):
    """A method that replays blocks of a chain.

    Attributes:
        method: Which.
    """

    name: ClassVar[str] = "chain"
    method: Method

    def prepare(self, project: Project, folder: Path) -> Events[ChainRun]:
        """Train a run in the folder, or open the one that is there."""
        started = time.perf_counter()
        run = yield from fitting(project, folder)
        return ChainRun(run, self.method, time.perf_counter() - started)


class ChainRun:
    """A run that forgets by one method; see `Prepared`.

    Attributes:
        run: The run.
        cost: What training took, with keeping the chain.
    """

    def __init__(self, run: Run, method: Method, seconds: float) -> None:
        self.run, self._method = run, method
        self.cost = self._cost(range(1, run.facts.blocks + 1), seconds)
        self._model: nn.Module | None = None

    @property
    def model(self) -> nn.Module:
        """The model as it is now."""
        if self._model is None:
            self._model = self.run.model
        return self._model

    @property
    def models(self) -> int:
        """One answers."""
        return 1

    @property
    def disk_bytes(self) -> int:
        """The whole folder: chain, ledger and all."""
        return sum(each.stat().st_size for each in self.run.folder.rglob("*") if each.is_file())

    def forget(self, records: NDArray[np.int64]) -> Events[Cost]:
        """Forget some records by the method."""
        erasure = yield from self.run.forget.events(records=records.tolist(), method=self._method)
        return self._spent(erasure)

    def settle(self) -> Events[Cost]:
        """Replace everything approximate by exact replay."""
        erasure = yield from self.run.settle.events()
        return self._spent(erasure)

    def predict(self, inputs: Any) -> Tensor:
        """The model's outputs for a batch of inputs."""
        with torch.no_grad():
            outputs: Tensor = self.model(moved(inputs, self.run.recipe.device))
            return outputs

    def close(self) -> None:
        """Let go of the ledger and of the model."""
        self._model = None
        self.run.close()

    def _spent(self, erasure: Erasure) -> Cost:
        self._model = None
        return self._cost(erasure.replayed, erasure.seconds)

    def _cost(self, blocks: Sequence[int], seconds: float) -> Cost:
        """What training on some blocks took, without those that are erased by now."""
        gone = self.run.ledger.records.erased()
        trained = _trained(self.run, blocks, gone)
        everything = _trained(self.run, range(1, self.run.facts.blocks + 1), gone)
        return Cost(
            seconds=seconds,
            steps=sum(self.run.trainer.layout.steps(block) for block in blocks),
            records=trained,
            share=trained / everything,
        )


class ChainOriginal:
    """A training that several methods of the chain begin with, each with a copy of it.

    Attributes:
        folder: Where the run is.
    """

    def __init__(self, project: Project, folder: Path) -> None:
        self.folder, self._project = folder, project
        self._cost: Cost | None = None

    def copied(self, contender: OnChain, place: Path) -> ChainRun:
        """A copy of the run for a contender, in a folder that is not there yet.

        Raises:
            InvalidRecipe, NotFinite, TrainingFailed, StorageFull: The training failed.
        """
        if self._cost is None:
            run = finish(contender.prepare(self._project, self.folder))
            self._cost = run.cost
            run.close()
        shutil.copytree(self.folder, place)
        copy = finish(contender.prepare(self._project, place))
        copy.cost = self._cost
        return copy


def _trained(run: Run, blocks: Iterable[int], gone: NDArray[np.int64]) -> int:
    members = (run.trainer.layout.members(block) for block in blocks)
    return run.recipe.repeats * sum(len(ids) - int(is_among(ids, gone).sum()) for ids in members)


def label_of(contender: Unlearner) -> str:
    """A contender as it is named in text, with the options that are not their default."""
    if isinstance(contender, OnChain):
        return label_of_method(contender.method)
    return label_of_baseline(contender)


def facts_of(contender: Unlearner) -> dict[str, object]:
    """A contender's kind, name and options, as JSON holds them."""
    if isinstance(contender, OnChain):
        return {"kind": "method"} | options_of(contender.method)
    return {"kind": "baseline"} | options_of(contender)


def contenders_of(methods: Iterable[str | Method | Unlearner]) -> tuple[Unlearner, ...]:
    """The contenders that are named, each once.

    Args:
        methods: Methods and baselines as objects or as text, with options as in
            "deepobliviate:back=1"; several in one text are set apart by commas. "all", "chain" and
            "baselines" stand for all that are announced. "retrain" is left out: it is in every
            comparison.

    Raises:
        UnknownMethod, InvalidOption: One is neither method nor baseline, or takes no such option.
    """
    if isinstance(methods, str):
        methods = [methods]
    found: list[Unlearner] = []
    for given in methods:
        for each in _named(given) if isinstance(given, str) else [given]:
            contender = _contender(each)
            if contender not in found and contender.name != RETRAIN:
                found.append(contender)
    return tuple(found)


def _named(text: str) -> list[str]:
    """The names in a text. What stands behind a comma and has an equals sign is an option still."""
    names: list[str] = []
    if not text.strip(", "):
        raise InvalidOption(
            f"methods holds {shown(text)}, which names none",
            hint="give the names of methods and baselines, or all; or retrain for that alone",
        )
    for piece in filter(None, (each.strip() for each in text.split(","))):
        if "=" in piece.partition(":")[0] and names:
            names[-1] += f",{piece}"
        elif piece in {ALL, CHAIN, BASELINES}:
            names += names_of_methods() if piece != BASELINES else []
            names += names_of_baselines() if piece != CHAIN else []
        else:
            names.append(piece)
    return names


def _contender(given: str | Method | Unlearner) -> Unlearner:
    if isinstance(given, Unlearner):
        return given
    if isinstance(given, Method):
        return OnChain(method=method_of(given))
    if not isinstance(given, str):
        raise InvalidOption(
            f"methods holds {shown(given)}", hint="give the names of methods and baselines"
        )
    name = given.partition(":")[0]
    if name in names_of_methods():
        return OnChain(method=method_of(given))
    if name in names_of_baselines():
        return unlearner_of(given)
    raise UnknownMethod(
        f"there is neither a method nor a baseline {shown(name)}",
        hint=f"methods: {', '.join(names_of_methods())}; baselines: "
        f"{', '.join(names_of_baselines())}; or {ALL}, {CHAIN}, {BASELINES}; with options as in "
        "deepobliviate:back=1",
    )
