"""The methods there are: ours, and those of other packages that announce them.

A package adds a method by an entry point of the group `obliviate.methods`:

    [project.entry-points."obliviate.methods"]
    halfway = "their_package.halfway:Halfway"

or, for the process at hand alone, by `register`: a run that was asked to forget by it can be worked
on only where it is registered, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from obliviate.errors import PUT_BACK, RequestError, RunDamaged
from obliviate.methods.method import Method
from obliviate.registry import Registry, label_of, options_of
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "METHODS",
    "faults",
    "label_of",
    "method_class",
    "method_from",
    "method_of",
    "names",
    "options_of",
    "register",
]


def _fault(kind: Any) -> str:
    return 'says that it is exact, which only "exact" may' if kind.is_exact else ""


METHODS: Registry[Method] = Registry(
    Method,
    noun="method",
    group="obliviate.methods",
    ours={
        "exact": "obliviate.methods.exact:Exact",
        "deepobliviate": "obliviate.methods.deepobliviate:DeepObliviate",
        "calibrated": "obliviate.methods.calibrated:Calibrated",
    },
    example="deepobliviate:epsilon=0.01",
    made="ob.DeepObliviate(epsilon=0.01)",
    how="a method is a frozen dataclass that inherits from obliviate.methods.method.Method; "
    "obliviate.testing.MethodContract tests one",
    fault=_fault,
)
register, names, faults = METHODS.register, METHODS.names, METHODS.faults
method_class, method_of = METHODS.kind, METHODS.of


def method_from(options: Mapping[str, object]) -> Method:
    """The method that the ledger keeps.

    Raises:
        RunDamaged: There is none of that name, or it has no such options.
    """
    try:
        rest = dict(options)
        return method_of(str(rest.pop("name")), **rest)
    except (KeyError, TypeError, ValueError, RequestError) as error:
        raise RunDamaged(
            f"the ledger keeps a method that cannot be: {shown(options)} ({error})",
            hint="if another package brought it, install that again; else " + PUT_BACK,
        ) from error
