"""Obliviate makes trained PyTorch models forget people."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obliviate.desk import Policy, Queue
    from obliviate.errors import ObliviateError
    from obliviate.plan import Plan
    from obliviate.recipe import Project, Recipe
    from obliviate.residual import Calibrated, DeepObliviate, Exact
    from obliviate.results import Erasure, Status
    from obliviate.run import Run, fit, fitting, load
    from obliviate.vault import KeyFile, KeyService, KeyVariable
    from obliviate.verification import Verification

__version__ = "0.1.0"

_ROOMS = {
    "Calibrated": "residual",
    "DeepObliviate": "residual",
    "Erasure": "results",
    "Exact": "residual",
    "KeyFile": "vault",
    "KeyService": "vault",
    "KeyVariable": "vault",
    "ObliviateError": "errors",
    "Plan": "plan",
    "Policy": "desk",
    "Project": "recipe",
    "Queue": "desk",
    "Recipe": "recipe",
    "Run": "run",
    "Status": "results",
    "Verification": "verification",
    "fit": "run",
    "fitting": "run",
    "load": "run",
}
"""Where each public name lives. It is imported when it is first asked for: torch takes seconds, and
whoever only registers a request needs none of it."""


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})


__all__ = [
    "Calibrated",
    "DeepObliviate",
    "Erasure",
    "Exact",
    "KeyFile",
    "KeyService",
    "KeyVariable",
    "ObliviateError",
    "Plan",
    "Policy",
    "Project",
    "Queue",
    "Recipe",
    "Run",
    "Status",
    "Verification",
    "fit",
    "fitting",
    "load",
]
