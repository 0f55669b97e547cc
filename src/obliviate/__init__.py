"""Obliviate makes trained PyTorch models forget people."""

from obliviate.errors import ObliviateError
from obliviate.fitting import fit, fitting
from obliviate.plan import Plan
from obliviate.policy import Policy
from obliviate.queue import Queue
from obliviate.recipe import Project, Recipe
from obliviate.residual import Calibrated, DeepObliviate, Exact
from obliviate.results import Erasure, Status
from obliviate.run import Run, load
from obliviate.vault import KeyFile, KeyService, KeyVariable
from obliviate.verification import Verification

__version__ = "0.1.0"

__all__ = [
    "Calibrated",
    "DeepObliviate",
    "Erasure",
    "Exact",
    "KeyFile",
    "KeyService",
    "KeyVariable",
    "ObliviateError",
    "Plan",
    "Policy",
    "Project",
    "Queue",
    "Recipe",
    "Run",
    "Status",
    "Verification",
    "fit",
    "fitting",
    "load",
]
