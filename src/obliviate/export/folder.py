"""A folder that a model is exported to: filled beside it, flushed, and renamed."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from obliviate.disk.lock import alone_at
from obliviate.disk.paths import flush, naming
from obliviate.errors import InvalidOption, RunDamaged
from obliviate.export.card import CARD_NAME, Card, check_free

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NEW, _OLD = "new", "old"


class FolderPlace:
    """A folder in the local file system; see `Place`.

    One export at a time works in a folder beside it, `.NAME.obliviate`. What a killed one has left
    there, the next one removes.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self._beside = path.parent / f".{path.name}.obliviate"

    def card(self) -> Card | None:
        """See `Place`."""
        with naming(self.path):
            if not (self.path / CARD_NAME).is_file():
                return None
            return Card.of((self.path / CARD_NAME).read_bytes(), self.name)

    def read(self, name: str) -> bytes:
        """See `Place`."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise RunDamaged(
                f"{self.path / name} cannot be read ({error.strerror})",
                hint="export the model again",
            ) from error

    @contextlib.contextmanager
    def held(self, run: str) -> Iterator[Path]:
        """See `Place`."""
        self._check(run)  # before anything is made
        with alone_at(self.path):
            try:
                with naming(self._beside):
                    self._mend()
                    self._check(run)
                    folder = self._beside / _NEW
                    folder.mkdir(parents=True)
                yield folder
            finally:
                with contextlib.suppress(OSError):
                    self._mend()

    def put(self, folder: Path) -> None:
        """See `Place`."""
        old = self._beside / _OLD
        with naming(self.path):
            for path in (*sorted(folder.rglob("*")), folder):
                flush(path)
            if self.path.exists():
                self.path.rename(old)
            try:
                folder.rename(self.path)
            except BaseException:
                if old.exists():
                    old.rename(self.path)
                raise
            with contextlib.suppress(OSError):  # it is there, and the ledger is to say so
                flush(self.path.parent)

    def take_back(self) -> None:
        """See `Place`; what failed was never in the place itself."""
        with naming(self._beside):
            if (self._beside / _NEW).exists():
                shutil.rmtree(self._beside / _NEW)

    def clean(self) -> None:
        """See `Place`."""
        if self.path.parent.exists():
            with alone_at(self.path, is_patient=False), naming(self._beside):
                self._mend()

    def _mend(self) -> None:
        """Put back an earlier export that a killed process had moved away, and remove the rest."""
        old = self._beside / _OLD
        if old.exists() and not self.path.exists():
            old.rename(self.path)
        if self._beside.exists():
            shutil.rmtree(self._beside)

    def _check(self, run: str) -> None:
        with naming(self.path):
            if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
                raise InvalidOption(
                    f"{self.path} is {'a link' if self.path.is_symlink() else 'a file'}",
                    hint="give a folder that is new or empty",
                )
            files = (path for path in self.path.rglob("*") if not path.is_dir())
            names = [path.relative_to(self.path).as_posix() for path in files]
            check_free(self.name, self.card() if names else None, names, run)
