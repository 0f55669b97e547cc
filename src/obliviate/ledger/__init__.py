"""The ledger: where facts live, in SQL. A row here is what makes a thing so."""

from obliviate.ledger.facts import Entry, ErasureFacts, RunFacts
from obliviate.ledger.ledger import Ledger

__all__ = ["Entry", "ErasureFacts", "Ledger", "RunFacts"]
