"""The desk: what is asked for, by when it is due, and how it stands, from the ledger alone."""

from obliviate.desk.desk import Desk
from obliviate.desk.policy import Policy
from obliviate.desk.queue import Queue, Queued

__all__ = ["Desk", "Policy", "Queue", "Queued"]
