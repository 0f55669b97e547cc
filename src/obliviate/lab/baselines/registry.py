"""The baselines there are: ours, and those of other packages that announce them.

A package adds one by an entry point of the group `obliviate.baselines`:

    [project.entry-points."obliviate.baselines"]
    fisher = "their_package.fisher:Fisher"

or, for the process at hand alone, by `register`.
"""

from __future__ import annotations

from obliviate.lab.baselines.unlearner import Unlearner
from obliviate.registry import Registry, label_of, options_of

__all__ = ["BASELINES", "faults", "label_of", "names", "options_of", "register", "unlearner_of"]

_ROOM = "obliviate.lab.baselines"
BASELINES: Registry[Unlearner] = Registry(
    Unlearner,
    noun="baseline",
    group="obliviate.baselines",
    ours={
        "retrain": f"{_ROOM}.retrain:Retrain",
        "sisa": f"{_ROOM}.sisa:Sisa",
        "finetune": f"{_ROOM}.finetune:FineTune",
        "neggrad": f"{_ROOM}.neggrad:NegGrad",
        "random_labels": f"{_ROOM}.random_labels:RandomLabels",
        "salun": f"{_ROOM}.salun:SalUn",
        "scrub": f"{_ROOM}.scrub:Scrub",
        "amnesiac": f"{_ROOM}.amnesiac:Amnesiac",
        "npo": f"{_ROOM}.npo:NPO",
    },
    example="neggrad:epochs=5,lr=0.01",
    made="NegGrad(epochs=5)",
    how=f"a baseline is a frozen dataclass that inherits from {_ROOM}.Unlearner; "
    "obliviate.testing.UnlearnerContract tests one",
)
register, names, faults = BASELINES.register, BASELINES.names, BASELINES.faults
unlearner_of = BASELINES.of
