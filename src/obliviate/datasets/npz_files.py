"""Arrays from .npz files, without anything that would be unpickled."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from obliviate.datasets.sources import Source


def arrays(path: Path, names: Sequence[str], source: Source) -> list[NDArray[Any]]:
    """Some arrays of a file.

    Args:
        path: The file.
        names: Of the arrays.
        source: Whose the file is, for the message.

    Raises:
        InvalidOption: The file cannot be read, or lacks one of them.
    """
    try:
        # opened here: numpy leaves a file open that is damaged
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return [stored[name] for name in names]
    except KeyError as error:
        raise source.damaged(path, f"lacks an array: {error.args[0]}") from error
    except (OSError, EOFError, ValueError, BadZipFile, zlib.error) as error:
        raise source.damaged(path, f"is no .npz file that can be read: {error}") from error
