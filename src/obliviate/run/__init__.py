"""A run: made by `fit`, opened by `load`."""

from obliviate.run.run import Run, load
from obliviate.run.start import fit

__all__ = ["Run", "fit", "load"]
