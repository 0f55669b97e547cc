"""Ready datasets: IDX files, CSV files, scikit-learn's digits, and made-up purchase records.

Each comes as a `TensorDataset`, which is trained on by indexing, without a `DataLoader`. Nothing
here computes a constant over all records (a mean, a vocabulary): such a constant would go on
remembering a record after it was erased.
"""

from obliviate.datasets.csv_files import TargetKind, csv, csv_column
from obliviate.datasets.embedded import digits
from obliviate.datasets.idx_files import Split, idx, idx_folder
from obliviate.datasets.references import held_out
from obliviate.datasets.synthetic import synthetic_purchase

__all__ = [
    "Split",
    "TargetKind",
    "csv",
    "csv_column",
    "digits",
    "held_out",
    "idx",
    "idx_folder",
    "synthetic_purchase",
]
