"""What a loader gives where records have people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import Dataset


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Records, whose they are, and those that are published to be tested on.

    Attributes:
        data: The records to train on, a map-style dataset.
        subjects: Whose each of them is, in their order: what `fit` takes for `subjects`.
        test: Records that are never trained on; None where none are published, or cannot be told.
        test_subjects: Whose each of those is; None where nobody knows.
    """

    data: Dataset[Any]
    subjects: list[str | None]
    test: Dataset[Any] | None = None
    test_subjects: list[str | None] | None = None
