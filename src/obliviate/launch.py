"""Launch: what torchrun, or another launcher, tells each of the processes that it starts."""

from __future__ import annotations

import os

_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_one_of_several() -> bool:
    """Whether a launcher has started this process beside others."""
    return all(name in os.environ for name in _TOLD) and os.environ["WORLD_SIZE"] != "1"


def is_speaking() -> bool:
    """Whether this process prints and writes for all: rank 0, or one that is alone."""
    return not is_one_of_several() or os.environ["RANK"] == "0"
