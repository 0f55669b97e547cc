"""The local disk: paths are made absolute once, and what the system refuses gets a name."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from obliviate.errors import InvalidOption, StorageFailed, StorageFull
from obliviate.options import path_text
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obliviate.errors import ObliviateError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_PASSING = {
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.EINTR,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
_NO_PATH = {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}


def absolute(given: str | os.PathLike[str], what: str) -> Path:
    """A path as it is kept: absolute, with `~` expanded, so that no `chdir` changes what it names.

    Links in it stay links: whoever moves what they lead to can set them anew.

    Args:
        given: The path.
        what: What it is of, for messages, such as "the run".

    Raises:
        InvalidOption: It is no path, or none that can be made here.
    """
    text = path_text(given, what)
    try:
        path = Path(os.path.abspath(text))  # noqa: PTH100 - `resolve` would follow links
        path.lstat()
    except OSError as error:
        if error.errno in _NO_PATH:
            raise InvalidOption(
                f"{what} is {shown(text)}, which cannot be a path ({error.strerror})",
                hint="give a shorter path, without links that lead in a circle",
            ) from error
    return path


def local_folder(path: str | Path) -> Path:
    """The folder of a run: absolute, so that it stays the same wherever the process goes.

    Raises:
        InvalidOption: It is a URL, or no path.
    """
    if isinstance(path, str) and "://" in path:
        raise InvalidOption(
            f"the run {shown(path)} is a URL",
            hint="this version keeps runs in local folders; give a path",
        )
    return absolute(path, "the run's folder")


def is_passing(error: Exception) -> bool:
    """Whether the same call to the system may succeed a moment later."""
    return isinstance(error, OSError) and error.errno in _PASSING


def named(error: OSError, what: object) -> ObliviateError:
    """What the system said, as an error of ours.

    Args:
        error: What it raised.
        what: The file or folder.
    """
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in _NO_ROOM:
        return StorageFull(
            f"{what} cannot be written to ({reason})",
            hint="make room or allow writing there, then call again; nothing was lost",
        )
    return StorageFailed(
        f"{what} cannot be read or written now ({reason})",
        hint="call again: all that was committed is kept, and what was begun will be finished; "
        "if it happens again, look after the disk, or close other files",
    )


@contextlib.contextmanager
def naming(what: object) -> Iterator[None]:
    """Give what the system refuses a name.

    Raises:
        StorageFull: There is no room, or no permission.
        StorageFailed: Anything else went wrong with the disk.
    """
    try:
        yield
    except OSError as error:
        raise named(error, what) from error


def flush(path: Path) -> None:
    """See that a file or the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
