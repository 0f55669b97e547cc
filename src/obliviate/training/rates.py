"""Rates: what a schedule makes of an optimizer's parameter groups, step by step.

A step's rates depend on its number alone, wherever training begins: a scheduler of torch's, which
goes from step to step, is stepped beforehand, on an optimizer that trains nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from obliviate.recipe.recipe import invalid
from obliviate.recipe.schedule import is_factory, made_scheduler, scheduler_faults
from obliviate.recipe.user_code import named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from obliviate.recipe.recipe import Recipe

    Options = Sequence[Mapping[str, Any]]
    Place = tuple[int, str]

COMPARED_STEPS = 4096
"""At so many steps a schedule of factors is looked at; in a shorter training, at all of them."""
COMPARED_RATES = 1 << 16
"""So many steps a scheduler is stepped to be compared: a second."""
_CHUNK = 1 << 13
_OUT_OF_ORDER = "Detected call of|Seems like .optimizer.step|The epoch parameter in"
"""What torch warns of where nothing is trained between two steps of a scheduler."""


class Rates:
    """The options of every parameter group at every step, by a recipe's schedule."""

    def __init__(self, recipe: Recipe, make_optimizers: Callable[[], Sequence[Optimizer]]) -> None:
        """Step nothing yet.

        Args:
            recipe: Its schedule.
            make_optimizers: Makes optimizers like those that train.
        """
        self._schedule, self._make = recipe.schedule, make_optimizers
        self._is_factory = is_factory(recipe.schedule)
        self._tables: dict[int, _Table] = {}

    def at(self, step: int, total_steps: int, new: Options) -> list[dict[str, Any]]:
        """What a step sets in each group.

        Args:
            step: Of the whole training, from 0.
            total_steps: How many there are.
            new: The groups' options in a new optimizer.

        Raises:
            InvalidRecipe: The schedule gives no finite number there, or asks for a metric.
            TrainingFailed: It raised.
        """
        if self._is_factory:
            return self._table(total_steps).at(step, new)
        if self._schedule is None:
            return [{} for _ in new]
        factor = self._factor(step, total_steps)
        return [{"lr": group["lr"] * factor} for group in new]

    def try_all(self, total_steps: int) -> None:
        """See that a scheduler can be stepped through to the end.

        Raises:
            InvalidRecipe, TrainingFailed: See `at`.
        """
        if self._is_factory:
            self._table(total_steps).grow(total_steps)

    def words(self, total_steps: int) -> str:
        """What the rates are, to be compared."""
        if self._schedule is None:
            return "none"
        if self._is_factory:
            return self._table(total_steps).words()
        steps = range(0, total_steps, max(1, -(-total_steps // COMPARED_STEPS)))
        factors = [round(self._factor(step, total_steps), 12) for step in steps]
        shown = ", ".join(f"{each:g}" for each in (*factors[:3], *factors[-1:]))
        digits = hashlib.sha256(repr(factors).encode()).hexdigest()[:16]
        return f"{shown} ({digits})"

    def _table(self, total_steps: int) -> _Table:
        if total_steps not in self._tables:  # each extension has a schedule of its own
            self._tables[total_steps] = _Table(self._schedule, self._make(), total_steps)
        return self._tables[total_steps]

    def _factor(self, step: int, total_steps: int) -> float:
        assert self._schedule is not None  # noqa: S101 - whoever calls has seen to it
        value = self._schedule(step, total_steps)
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            factor = float(value)
            if not isinstance(value, bool | str) and math.isfinite(factor):
                return factor
        raise invalid(
            [
                f"schedule({step}, {total_steps}) gave {value!r}; it must give a finite number, "
                "the factor on the optimizer's learning rates"
            ]
        )


class _Table:
    """What schedulers make of the numbers in optimizers' groups: kept where they move."""

    def __init__(self, schedule: Any, optimizers: Sequence[Optimizer], total_steps: int) -> None:
        self._total_steps = total_steps
        self._groups = [group for each in optimizers for group in each.param_groups]
        self._new = dict(self._numbers())
        self._chunks: list[dict[Place, NDArray[np.float64]]] = []
        self._moved: dict[Place, None] = {}
        with named("the schedule"), _out_of_order():
            self._schedulers = [made_scheduler(schedule, each, total_steps) for each in optimizers]
        pairs = zip(self._schedulers, optimizers, strict=True)
        if faults := [fault for pair in pairs for fault in scheduler_faults(*pair)]:
            raise invalid(faults)

    def at(self, step: int, new: Options) -> list[dict[str, Any]]:
        """What a step sets in each group."""
        self.grow(step + 1)
        chunk, row = self._chunks[step // _CHUNK], step % _CHUNK
        options: list[dict[str, Any]] = [{} for _ in new]
        for number, name in self._moved:
            its, before = chunk.get((number, name)), new[number][name]
            options[number][name] = before if its is None else _like(before, its[row].tolist())
        return options

    def grow(self, steps: int) -> None:
        """Know at least so many steps."""
        while len(self._chunks) * _CHUNK < min(steps, self._total_steps):
            self._chunks.append(self._next_chunk())

    def words(self) -> str:
        """What the first steps set, to be compared."""
        self.grow(COMPARED_RATES)
        chunks = self._chunks[: COMPARED_RATES // _CHUNK]
        seen = hashlib.sha256(str(self._total_steps).encode())
        for chunk in chunks:
            for place, values in chunk.items():
                seen.update(repr(place).encode() + values.round(12).tobytes())
        rates = chunks[0].get((0, "lr"))
        shown = "" if rates is None else ", ".join(f"{each:g}" for each in rates[:3])
        return f"{type(self._schedulers[0]).__name__} {shown} ({seen.hexdigest()[:16]})"

    def _next_chunk(self) -> dict[Place, NDArray[np.float64]]:
        first = len(self._chunks) * _CHUNK
        rows = []
        with _out_of_order():
            for step in range(first, min(first + _CHUNK, self._total_steps)):
                if step:
                    with named(f"the schedule at step {step} of {self._total_steps}"):
                        for each in self._schedulers:
                            each.step()
                rows.append([_number(self._groups[at][name]) for at, name in self._new])
        chunk = {}
        for (place, new), column in zip(self._new.items(), zip(*rows, strict=True), strict=True):
            values = np.array(column, dtype=np.float64)
            if not np.isfinite(values).all():
                raise invalid([f"the schedule sets {place[1]!r} to no finite number at some step"])
            if not (values == np.array(new)).all():
                chunk[place] = values
        self._moved |= dict.fromkeys(chunk)
        return chunk

    def _numbers(self) -> Iterator[tuple[Place, Any]]:
        for at, group in enumerate(self._groups):
            for name, value in group.items():
                parts = value if isinstance(value, tuple) else (value,)
                if name == "lr" or (parts and all(type(each) in (int, float) for each in parts)):
                    yield (at, name), _number(value)


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Tensor) else value


def _like(before: Any, value: Any) -> Any:
    """A number, or several, in the form that an option has."""
    if isinstance(before, Tensor):
        return torch.full_like(before, value)
    return tuple(value) if isinstance(before, tuple) else value


@contextlib.contextmanager
def _out_of_order() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _OUT_OF_ORDER, UserWarning)
        yield
