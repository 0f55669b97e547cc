"""Contracts that whatever is added to Obliviate has to keep, as tests to inherit from.

pytest is needed, which a run does not need.
"""

from obliviate.testing.method import MethodContract
from obliviate.testing.trainer import TrainerContract
from obliviate.testing.unlearner import UnlearnerContract

__all__ = ["MethodContract", "TrainerContract", "UnlearnerContract"]
