"""A run: made by `fit`, opened by `load`."""

from obliviate.run.fit import fit, fitting
from obliviate.run.run import Run, load

__all__ = ["Run", "fit", "fitting", "load"]
