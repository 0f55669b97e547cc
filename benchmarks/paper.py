"""The benchmarks' project: the net of `examples/mnist.py`, trained the paper's way.

All records are dealt once to 500 blocks, and each block is gone through four times before the next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from examples import mnist

if TYPE_CHECKING:
    import obliviate as ob


def project(data: str) -> ob.Project:
    """What is trained.

    Args:
        data: The folder of the IDX files.
    """
    made = mnist.project(data=data, epochs="1", blocks="500")
    return replace(made, recipe=replace(made.recipe, repeats=4), subjects=None)
