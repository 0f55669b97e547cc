"""Replay equality: train without the erased records from scratch, and compare."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from obliviate.errors import RunUnfinished
from obliviate.events import Events, watched
from obliviate.lab.accuracy import accuracy
from obliviate.run.make import trainer_of
from obliviate.states.difference import l1
from obliviate.states.update import captured, digest
from obliviate.training.averages import served_state
from obliviate.training.base import moving_in
from obliviate.training.model import load_state
from obliviate.training.protocol import training_over

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.utils.data import Dataset

    from obliviate.ledger.facts import Guarantee
    from obliviate.run import Run
    from obliviate.states.update import State

    Verdict = Literal["passed", "failed", "compared"]


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """What came of training again from scratch, without the erased records.

    **Assumes** that the records of a request are all that the model had of it: copies of them under
    other ids are trained on here too. **Voids**: a changed environment (`changed_environment`) may
    change bits, so that digests differ although the procedure was right.

    Attributes:
        guarantee: What the run claims of its model.
        verdict: "passed" or "failed" where the run claims to be exact: the digests are equal or
            not. "compared" where it claims no more than approximate: compared, not proved.
        digest: Of the run's model.
        digest_retrained: Of the model trained without the erased records.
        distance: ‖run - retrained‖₁ over the parameters, relative to ‖retrained‖₁.
        accuracy: Of the run's model on the test records; None without any.
        accuracy_retrained: The same of the retrained model.
        left_out: How many records both were made without.
        seconds: How long the training took.
        changed_environment: What differs from where the run was made, as name -> (then, now).
    """

    guarantee: Guarantee
    verdict: Verdict
    digest: str
    digest_retrained: str
    distance: float
    accuracy: float | None
    accuracy_retrained: float | None
    left_out: int
    seconds: float
    changed_environment: dict[str, tuple[str, str]]

    @property
    def passed(self) -> bool:
        """Whether nothing was found to be wrong; an approximate run is not proved by that."""
        return self.verdict != "failed"


@watched
def audit(run: Run, test: Dataset[Any] | None = None) -> Events[Retraining]:
    """Train without the erased records from scratch, and compare; nothing is written.

    No erased record is ever read. It costs as much as training did.

    Args:
        run: The run.
        test: Records to measure the accuracy of both models on.

    Raises:
        RunUnfinished: The run, or an erasure from it, has not been carried out to its end.
        NotFinite, TrainingFailed: The training failed.
    """
    claimed, guarantee = run.digest, run.guarantee
    if run.ledger.erasures.running() is not None:
        raise RunUnfinished(
            f"an erasure from {run.folder} has not been carried out to its end",
            hint="call forget or settle: it finishes what was begun; then audit again",
        )
    left_out, model, recipe = run.ledger.records.erased(), run.model, run.recipe
    measure = partial(accuracy, test=test, device=recipe.device, collate=recipe.collate)
    live = model.state_dict()
    served = captured({name: live[name] for name in run.trainer.parameters})
    measured = measure(model)  # before training: a faulty test set fails at once
    started = time.perf_counter()
    state = yield from _retraining(run, left_out)
    seconds = time.perf_counter() - started
    found, state = digest(state), served_state(state)
    load_state(model, state)
    is_equal = found == claimed
    return Retraining(
        guarantee=guarantee,
        verdict=("passed" if is_equal else "failed") if guarantee == "exact" else "compared",
        digest=claimed,
        digest_retrained=found,
        distance=_distance(served, state, run.trainer.parameters),
        accuracy=measured,
        accuracy_retrained=measure(model),
        left_out=len(left_out),
        seconds=seconds,
        changed_environment=run.changed_environment(),
    )


def _retraining(run: Run, left_out: NDArray[np.int64]) -> Events[State]:
    """The state that training from scratch ends in, with everybody in the place that they had."""
    trainer = trainer_of(
        run.recipe,
        run.data,
        run.trainer.layout,
        environment=run.facts.environment,
        moving=moving_in(run.facts.fingerprint),
    )
    blocks = range(1, run.chain().length + 1)
    last = yield from training_over(trainer, trainer.initial(), blocks, left_out, task="retrain")
    return last.model


def _distance(left: State, right: State, names: frozenset[str]) -> float:
    apart = l1(left[name] - right[name] for name in names)
    return apart / (l1(right[name] for name in names) or 1.0)
