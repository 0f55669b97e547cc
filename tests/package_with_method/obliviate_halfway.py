"""A method as somebody else would write it, and a baseline.

The method replays to the middle, then takes off a share of u; the baseline leaves all as it is.
"""

from dataclasses import dataclass
from typing import ClassVar

from obliviate.events import Event
from obliviate.lab.baselines.single import Work, trained
from obliviate.lab.baselines.unlearner import Unlearner
from obliviate.methods.method import Decision, Method, Pursuit


@dataclass(frozen=True, kw_only=True)
class Halfway(Method):
    """Stop halfway to the next affected block, and stitch."""

    taken: float = 1.0
    name: ClassVar[str] = "halfway"

    def begin(self, erasure):
        return Middle(self)


class Middle(Pursuit):
    def __init__(self, method):
        self._method = method

    def decide(self, progress):
        done = len(progress.series)
        is_final = done >= progress.until - progress.block
        return Decision(is_final=is_final, reason=f"replayed {done}, {progress.until} is the end")

    def share(self, rest):
        return self._method.taken


class Broken:
    """Neither a method nor a baseline."""


@dataclass(frozen=True, kw_only=True)
class Nothing(Unlearner):
    """Forget nobody: what every other baseline has to be better than."""

    name: ClassVar[str] = "nothing"

    def prepare(self, project, folder):
        return (yield from trained(project, self, leave))


def leave(model, request):
    yield Event(task="forget", done=1, total=1)
    return Work()


def write_listing(model, folder, example):
    """A form: what the model's tensors are called, and the shape of what it is called with."""
    lines = [*model.state_dict(), str(tuple(example().shape))]
    (folder / "listing.txt").write_text("\n".join(lines), encoding="utf-8")
