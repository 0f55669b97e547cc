"""Reports: the evidence of a run, rendered for people who were not there."""

from obliviate.evidence.chart import Curve, picture
from obliviate.evidence.page import page, saved_page, saved_picture
from obliviate.evidence.statement import ErasureEvidence, Evidence, gathered

__all__ = [
    "Curve",
    "ErasureEvidence",
    "Evidence",
    "gathered",
    "page",
    "picture",
    "saved_page",
    "saved_picture",
]
