"""Audits: tests of forgetting that can fail."""

from obliviate.audit.accuracy import accuracy
from obliviate.audit.findings import Finding, Lab
from obliviate.audit.lab import lab, labbing
from obliviate.audit.retraining import Retraining, audit, auditing

__all__ = ["Finding", "Lab", "Retraining", "accuracy", "audit", "auditing", "lab", "labbing"]
