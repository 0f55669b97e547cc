"""A run: made by `fit`, opened by `load`."""

from obliviate.run.run import Run
from obliviate.run.start import fit, load

__all__ = ["Run", "fit", "load"]
