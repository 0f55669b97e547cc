"""Audits: tests of forgetting that can fail."""

from obliviate.audit.accuracy import accuracy
from obliviate.audit.retraining import Retraining, audit, auditing

__all__ = ["Retraining", "accuracy", "audit", "auditing"]
