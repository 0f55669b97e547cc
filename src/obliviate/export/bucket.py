"""A bucket that a model is exported to: its card is written last, and removed first."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from obliviate.disk.paths import naming
from obliviate.disk.scratch import scratch
from obliviate.export.card import CARD_NAME, Card, check_free
from obliviate.vault.bucket import PART_BYTES, Bucket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class BucketPlace:
    """A prefix in a storage that fsspec reaches; see `Place`."""

    def __init__(self, url: str) -> None:
        self._bucket = Bucket(url)
        self.name = self._bucket.name
        self._written: list[str] = []

    def card(self) -> Card | None:
        """See `Place`."""
        if CARD_NAME not in set(self._bucket):
            return None
        return Card.of(self._bucket.read(CARD_NAME), self.name)

    def read(self, name: str) -> bytes:
        """See `Place`."""
        return self._bucket.read(name)

    @contextlib.contextmanager
    def held(self, run: str) -> Iterator[Path]:
        """See `Place`; where two write there at once, the last one stays."""
        names = [*self._bucket, *self._bucket.others()]
        card = self.card()
        known = set() if card is None else {name.split("/")[0] for name in card.files}
        check_free(self.name, card, set(names) - known, run)
        with scratch() as folder:
            yield folder

    def put(self, folder: Path) -> None:
        """See `Place`."""
        earlier = self.card()
        if earlier is not None:
            for name in (CARD_NAME, *earlier.files):
                self._bucket.destroy(name)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in sorted(files, key=lambda path: path == folder / CARD_NAME):
            name = path.relative_to(folder).as_posix()
            self._written.append(name)
            with naming(path):
                self._bucket.write(name, _pieces(path))

    def take_back(self) -> None:
        """See `Place`."""
        for name in reversed(self._written):
            self._bucket.destroy(name)

    def clean(self) -> None:
        """See `Place`; nothing is left beside it."""


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PART_BYTES):
            yield piece
