"""Audits: tests of forgetting that can fail."""

from obliviate.lab.accuracy import accuracy
from obliviate.lab.lab import lab
from obliviate.lab.results import Finding, Lab
from obliviate.lab.retraining import Retraining, audit

__all__ = ["Finding", "Lab", "Retraining", "accuracy", "audit", "lab"]
