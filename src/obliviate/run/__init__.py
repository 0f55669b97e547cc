"""A run: made by `fit`, opened by `load`."""

from obliviate.run.run import Run, load
from obliviate.run.start import fit, fitting

__all__ = ["Run", "fit", "fitting", "load"]
