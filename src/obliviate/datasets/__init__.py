"""Ready datasets: published ones, tables and pictures of the user's own, and made-up records.

What is small comes as a `TensorDataset`, which is trained on by indexing, without a `DataLoader`.
Where records have people, a loader gives a `Loaded`: the records, whose they are, and what is
published to be tested on. Nothing here computes a constant over all records (a mean, a vocabulary):
such a constant would go on remembering a record after it was erased.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obliviate.datasets.binary import location, purchase
    from obliviate.datasets.csv_files import TargetKind, csv, csv_column
    from obliviate.datasets.embedded import digits
    from obliviate.datasets.idx_files import Split, idx, idx_folder
    from obliviate.datasets.image_sets import Images, images, shifted
    from obliviate.datasets.loaded import Loaded
    from obliviate.datasets.ratings import movielens
    from obliviate.datasets.references import held_out
    from obliviate.datasets.retail import online_retail
    from obliviate.datasets.synthetic import synthetic_purchase
    from obliviate.datasets.tables import table
    from obliviate.datasets.texts import Texts, speeches, tofu
    from obliviate.datasets.writers import mnist

_FILES = {
    "Images": "image_sets",
    "Loaded": "loaded",
    "Split": "idx_files",
    "TargetKind": "csv_files",
    "Texts": "texts",
    "csv": "csv_files",
    "csv_column": "csv_files",
    "digits": "embedded",
    "held_out": "references",
    "idx": "idx_files",
    "idx_folder": "idx_files",
    "images": "image_sets",
    "location": "binary",
    "mnist": "writers",
    "movielens": "ratings",
    "online_retail": "retail",
    "purchase": "binary",
    "shifted": "image_sets",
    "speeches": "texts",
    "synthetic_purchase": "synthetic",
    "table": "tables",
    "tofu": "texts",
}
"""Where each public name lives. It is imported when it is first asked for: scikit-learn takes as
long as torch, and few data come from it."""


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})


__all__ = [
    "Images",
    "Loaded",
    "Split",
    "TargetKind",
    "Texts",
    "csv",
    "csv_column",
    "digits",
    "held_out",
    "idx",
    "idx_folder",
    "images",
    "location",
    "mnist",
    "movielens",
    "online_retail",
    "purchase",
    "shifted",
    "speeches",
    "synthetic_purchase",
    "table",
    "tofu",
]
