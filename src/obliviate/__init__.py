"""Obliviate makes trained PyTorch models forget people."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from obliviate.version import __version__

if TYPE_CHECKING:
    from obliviate.chain.verification import Verification
    from obliviate.desk import Policy, Queue
    from obliviate.erasure.plan import Plan
    from obliviate.erasure.results import Erasure, Status
    from obliviate.errors import ObliviateError
    from obliviate.lab.bench import bench
    from obliviate.methods.calibrated import Calibrated
    from obliviate.methods.deepobliviate import DeepObliviate
    from obliviate.methods.exact import Exact
    from obliviate.recipe.recipe import Project, Recipe
    from obliviate.run import Run, fit, load
    from obliviate.run.model import open_model
    from obliviate.vault import KeyFile, KeyService, KeyVariable

_ROOMS = {
    "Calibrated": "methods.calibrated",
    "DeepObliviate": "methods.deepobliviate",
    "Erasure": "erasure.results",
    "Exact": "methods.exact",
    "KeyFile": "vault",
    "KeyService": "vault",
    "KeyVariable": "vault",
    "ObliviateError": "errors",
    "Plan": "erasure.plan",
    "Policy": "desk",
    "Project": "recipe.recipe",
    "Queue": "desk",
    "Recipe": "recipe.recipe",
    "Run": "run",
    "Status": "erasure.results",
    "Verification": "chain.verification",
    "bench": "lab.bench",
    "fit": "run",
    "load": "run",
    "open_model": "run.model",
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
    "__version__",
    "bench",
    "fit",
    "load",
    "open_model",
]
