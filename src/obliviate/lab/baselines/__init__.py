"""Baselines: competitors that keep no chain, each a file that holds its rule."""

from obliviate.lab.baselines.registry import label_of, names, register, unlearner_of
from obliviate.lab.baselines.unlearner import Cost, Prepared, Unlearner

__all__ = ["Cost", "Prepared", "Unlearner", "label_of", "names", "register", "unlearner_of"]
