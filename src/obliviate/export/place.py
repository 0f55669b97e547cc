"""Where a model is exported to: a folder, or a bucket. What is there is never half an export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from obliviate.errors import InvalidOption
from obliviate.export.folder import FolderPlace
from obliviate.vault.storage import kept_form

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractContextManager

    from obliviate.export.card import Card


class Place(Protocol):
    """Where an export goes.

    Attributes:
        name: As the ledger keeps it.
    """

    name: str

    def card(self) -> Card | None:
        """The card of what is there; None where there is none.

        Raises:
            RunDamaged: It is no card.
        """
        ...

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            RunDamaged: It is missing, or cannot be read.
        """
        ...

    def held(self, run: str) -> AbstractContextManager[Path]:
        """Hold the place, and give a local folder to fill; it is gone afterwards.

        Args:
            run: The run whose earlier export may be written over.

        Raises:
            InvalidOption: Something else is there, which is never written over.
        """
        ...

    def put(self, folder: Path) -> None:
        """Put what that folder holds there, in the place of an earlier export; its card comes last.

        Raises:
            StorageFull, StorageFailed, ConnectionLost: It cannot be.
        """
        ...

    def take_back(self) -> None:
        """Remove what an export has written that failed."""
        ...

    def clean(self) -> None:
        """Remove what a killed export has left beside the place."""
        ...


def place_of(where: str | Path) -> Place:
    """The place that a path or a URL names; nothing is made there yet.

    Raises:
        InvalidOption: It is neither, or the URL holds a secret.
    """
    name = kept_form(where, "the export")
    if "://" not in name:
        return FolderPlace(Path(name))
    from obliviate.export.bucket import BucketPlace  # noqa: PLC0415 - others need no fsspec

    return BucketPlace(name)


def check_outside(place: Place, others: Collection[Path]) -> None:
    """See that an export does not go where a run keeps its own.

    Args:
        place: Where it is to go.
        others: The folders of the run.

    Raises:
        InvalidOption: It lies in one of them, or one of them in it.
    """
    if not isinstance(place, FolderPlace):
        return
    path = place.path.resolve()
    for other in (each.resolve() for each in others):
        if path == other or other in path.parents or path in other.parents:
            raise InvalidOption(
                f"the export would go to {path}, and the run keeps its own in {other}",
                hint="give a folder apart from the run's: what is handed on is not the run's",
            )
