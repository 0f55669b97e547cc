"""Reports: the evidence of a run, rendered for people who were not there."""

from obliviate.report.curve import Curve, picture
from obliviate.report.evidence import ErasureEvidence, Evidence, gathered
from obliviate.report.page import page, saved_page, saved_picture

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
