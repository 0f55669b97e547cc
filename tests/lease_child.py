"""Processes that hold a run's lease, or wait for it, or write to the run."""

import os
import sys
import threading
from pathlib import Path

from obliviate.ledger import Ledger


def holding(folder, beat_seconds, *more):
    """Hold the lease and say so; then write an entry for every line of standard input."""
    from tests.stories import entry

    ledger = Ledger(Path(folder))
    ledger.lease.beat_seconds = float(beat_seconds)
    assert ledger.lease.try_taking() is None
    print("held", flush=True)
    for line in sys.stdin:
        try:
            ledger.chain.append([entry(int(line))])
            print("written", flush=True)
        except Exception as error:
            print(type(error).__name__, flush=True)
        if more:
            ledger.lease.release()
            print("released", flush=True)
            break


def dying(folder, *_):
    """Take the lease and be gone without a word."""
    ledger = Ledger(Path(folder))
    assert ledger.lease.try_taking() is None
    assert threading.active_count() > 1
    print("held", flush=True)
    os._exit(1)


def hanging(folder, *_):
    """Be stopped in the middle of a transaction."""
    ledger = Ledger(Path(folder))
    with ledger._changing("never ends"):
        print("held", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    {"holding": holding, "dying": dying, "hanging": hanging}[sys.argv[1]](*sys.argv[2:])
