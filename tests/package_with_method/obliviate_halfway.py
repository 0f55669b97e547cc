"""A method as somebody else would write it: replay to the middle, then take off a share of u."""

from dataclasses import dataclass
from typing import ClassVar

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
    """Not even a method."""


def write_listing(model, folder, example):
    """A form: what the model's tensors are called, and the shape of what it is called with."""
    lines = [*model.state_dict(), str(tuple(example().shape))]
    (folder / "listing.txt").write_text("\n".join(lines), encoding="utf-8")
