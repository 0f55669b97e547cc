"""What in a recipe can be seen to be wrong without running anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from obliviate.recipe.schedule import FACTORY, factory_faults, is_factory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obliviate.recipe.recipe import Recipe

OptimizerState = Literal["fresh", "carried"]
Reads = Literal["batch", "more"]
Dealing = Literal["subject", "record"]
Accumulation = Literal["tree", "sequence"]
Precision = Literal["fp32", "bf16", "fp16"]
LEAST = {
    "batch_size": 1,
    "microbatches": 1,
    "epochs": 1,
    "repeats": 1,
    "workers": 0,
    "smallest_batch": 1,
    "seed": None,
    "block_seed": None,
}
"""The whole numbers of a recipe, and the least that each may be."""
_OPTIONAL = ("block_seed", "smallest_batch")
_CHOICES = {
    "optimizer_state": get_args(OptimizerState),
    "reads": get_args(Reads),
    "deal": get_args(Dealing),
    "accumulation": get_args(Accumulation),
    "precision": get_args(Precision),
}
_OF_A_PASS = {"microbatches": 1, "weigh": None, "precision": "fp32", "clip_norm": None}
"""What a step that goes backward by itself does by itself."""
_NO_CLASS = {
    "loss": "give an object of it, such as CrossEntropyLoss()",
    "step": "give a function (model, batch) -> loss",
    "score": "give a function (model, batch) -> one number for each record",
    "collate": "give an object of it, or a function (records) -> batch",
    "schedule": "give a function (step, total_steps) -> factor on the learning rates, or "
    "a scheduler's factory, whose first parameter is named optimizer",
    "weigh": "give a function (batch) -> number of items",
}


def faults_of(recipe: Recipe) -> Iterator[str]:
    """Every fault of a recipe."""
    yield from _callable_faults(recipe)
    yield from _step_faults(recipe)
    yield from _number_faults(recipe)
    yield from _choice_faults(recipe)


def is_number(value: object) -> bool:
    """Whether something is a real number."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _callable_faults(recipe: Recipe) -> Iterator[str]:
    for name, call in (("model", "Net"), ("optimizer", "partial(torch.optim.SGD, lr=0.1)")):
        value = getattr(recipe, name)
        if isinstance(value, nn.Module | Optimizer):
            kind = "a module" if isinstance(value, nn.Module) else "an optimizer"
            yield f"{name} is {kind} that exists already; give the factory, such as {call}"
        elif not callable(value):
            yield f"{name} is {value!r}; it must be callable, such as {call}"
    for name in ("loss", "schedule", "step", "score", "collate", "weigh"):
        value = getattr(recipe, name)
        if value is not None and not callable(value):
            yield f"{name} is {value!r}; it must be callable or None"
        elif isinstance(value, type) and _has_calls(value):
            yield f"{name} is the class {value.__name__}; {_NO_CLASS[name]}"
    schedule: Any = recipe.schedule
    if isinstance(schedule, LRScheduler):
        kind = type(schedule).__name__
        yield f"schedule is a {kind} that exists already; give its factory, such as {FACTORY}"
    elif is_factory(schedule):
        yield from factory_faults(schedule)


def _step_faults(recipe: Recipe) -> Iterator[str]:
    if recipe.loss is None and recipe.step is None:
        yield "loss and step are missing; give loss(outputs, targets) or step(model, batch)"
    if recipe.takes_items and recipe.weigh is None:
        yield "step takes items; give weigh(batch) -> how many items a microbatch has"
    for name, plain in _OF_A_PASS.items() if recipe.is_manual else ():
        if getattr(recipe, name) != plain:
            yield f"step takes optimizers, and makes its own steps: do {name} in it"


def _number_faults(recipe: Recipe) -> Iterator[str]:
    for name, least in LEAST.items():
        value = getattr(recipe, name)
        if name in _OPTIONAL and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            yield f"{name} is {value!r}; it must be an int"
        elif least is not None and value < least:
            yield f"{name} is {value}; it must be {least} or more"
    cut = recipe.microbatches, recipe.batch_size
    if all(isinstance(each, int) for each in cut) and cut[0] > max(1, cut[1]):
        yield (
            f"microbatches is {recipe.microbatches}; a batch has no more than "
            f"{recipe.batch_size} records"
        )
    norm: Any = recipe.clip_norm
    if norm is not None and not (is_number(norm) and 0 < norm < float("inf")):
        yield f"clip_norm is {norm!r}; it must be a number above 0, or None"
    decay: Any = recipe.ema
    if decay is not None and not (is_number(decay) and 0 < decay < 1):
        yield f"ema is {decay!r}; it must be a number between 0 and 1, or None"


def _choice_faults(recipe: Recipe) -> Iterator[str]:
    for name, known in _CHOICES.items():
        if getattr(recipe, name) not in known:
            words = " or ".join(f'"{each}"' for each in known)
            yield f"{name} is {getattr(recipe, name)!r}; it must be {words}"
    device: Any = recipe.device
    if not isinstance(device, str):
        yield f'device is {device!r}; give its name, such as "cpu" or "cuda:0"'
        return
    try:
        if torch.empty(0, device=recipe.device).is_meta:
            yield 'device is "meta", where nothing is computed; give "cpu" or "cuda:0"'
    except (RuntimeError, AssertionError, TypeError, ImportError, NotImplementedError) as error:
        yield f"device {recipe.device!r} cannot be used here ({str(error).splitlines()[0]})"


def _has_calls(kind: type) -> bool:
    """Whether objects of a class are called, rather than the class; a scheduler's is a factory."""
    return any("__call__" in vars(each) for each in kind.__mro__)
