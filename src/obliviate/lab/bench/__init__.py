"""The bench: methods of unlearning and baselines side by side, in one table."""

from obliviate.lab.bench.comparison import Comparison, Row, Verdicts
from obliviate.lab.bench.session import bench

__all__ = ["Comparison", "Row", "Verdicts", "bench"]
