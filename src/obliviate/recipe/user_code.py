"""The user's own code: what raises in it is named."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from obliviate.errors import ObliviateError, TrainingFailed

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Say which part of the user's own code raised.

    Raises:
        TrainingFailed: Something raised.
    """
    try:
        yield
    except ObliviateError:
        raise
    except Exception as error:
        raise TrainingFailed(
            f"{what} raised {type(error).__name__}: {error}",
            hint="mend it and call again; what was finished before is kept",
        ) from error
