"""The ledger: where facts live, in SQL. A row here is what makes a thing so."""

from obliviate.ledger.facts import (
    Entry,
    ErasureFacts,
    ExportFacts,
    ObjectFacts,
    RequestFacts,
    RunFacts,
)
from obliviate.ledger.ledger import Ledger
from obliviate.ledger.newcomers import Newcomers

__all__ = [
    "Entry",
    "ErasureFacts",
    "ExportFacts",
    "Ledger",
    "Newcomers",
    "ObjectFacts",
    "RequestFacts",
    "RunFacts",
]
