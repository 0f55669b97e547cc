"""The user's own code: what raises in it is named."""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

from obliviate.errors import ObliviateError, TrainingFailed
from obliviate.recipe.nondeterministic import refusal_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def parameters_of(function: Any) -> Mapping[str, inspect.Parameter]:
    """What a function can be called with, in order; nothing where it does not say."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def first_parameter(function: Any) -> str | None:
    """The name of the first thing that a function is called with."""
    return next(iter(parameters_of(function)), None)


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Say which part of the user's own code raised.

    Raises:
        NotDeterministic: torch refused an operation that gives other bits each time.
        TrainingFailed: Something raised.
    """
    try:
        yield
    except ObliviateError:
        raise
    except Exception as error:
        refused = refusal_of(error)
        if refused is not None:
            raise refused from error
        raise TrainingFailed(
            f"{what} raised {type(error).__name__}: {error}",
            hint="mend it and call again; what was finished before is kept",
        ) from error
