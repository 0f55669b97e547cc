"""Soundness: whether a stitched state can be served, and buffers that fit its weights.

Weights are sums of what blocks did to them, and so can be stitched. A buffer may be anything: a
running variance, the smallest value seen, a factor of a covariance, the count of a cluster. No
difference of two of them need be one of their kind, so none is ever subtracted: where the erased
records left the original's buffer and the replay's apart, the replay's is taken, and brought up to
the stitched weights by forward passes in training mode over retained records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _Orthogonal, _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from obliviate.errors import TrainingFailed
from obliviate.methods.buffers import batch_norm_statistics, first_passes, reestimated
from obliviate.recipe.deal import key
from obliviate.recipe.user_code import named
from obliviate.states.update import is_additive
from obliviate.training.determinism import seed_generators
from obliviate.training.model import load_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from obliviate.states.update import State
    from obliviate.training.protocol import BlockTrainer

JUDGED_BATCHES = 8
_BATCHES_PASSED = (64, 256, 1024)  # a running average of weight 0.01 has forgotten after a few 100
_ALLOWED_LOSS = 0.02  # of what training achieved: what new buffers may cost
_ALLOWED_DISTANCE = 0.02  # from a constraint, beside twice the original's
_POWER_ITERATIONS = 100


class Finish:
    """Finishes stitched states of one stretch of blocks, and judges them.

    Attributes:
        remark: What could not be looked at, in words; empty where all could.
    """

    def __init__(
        self,
        trainer: BlockTrainer,
        blocks: range,
        erased: NDArray[np.int64],
        *,
        replayed: State,
        apart: State,
        original: Callable[[], State],
        until: int,
        is_last: bool,
    ) -> None:
        """Remember what to finish with.

        Args:
            trainer: Whose model, data and loss to use.
            blocks: Blocks that were replayed last; BatchNorm is measured on their records.
            erased: Sorted ids, never read.
            replayed: Q_e, the last replayed state.
            apart: The original's values, at that block, of buffers that are not the replay's.
            original: Gives the original state at the end of the stretch.
            until: The last block of the stretch.
            is_last: Whether the chain ends there, so that the state will be served.
        """
        self._trainer, self._blocks, self._erased = trainer, blocks, erased
        self._buffers = {name: replayed[name] for name in apart}
        self._original = original
        self._replayed, self._apart = replayed, apart
        self._following = frozenset(apart) - batch_norm_statistics(trainer.model)
        self._until, self._is_last = until, is_last
        per_block = (trainer.layout.steps_once(block) for block in blocks)
        self._is_few = sum(per_block) < _BATCHES_PASSED[0]
        spread = np.unique(np.linspace(1, until, JUDGED_BATCHES).astype(int)).tolist()
        firsts = (next(first_passes(trainer, [block], erased), None) for block in spread)
        self._batches = [batch for batch in firsts if batch is not None]
        self._known: dict[str, float] | None = None
        self._first_loss: float | None = None
        self.remark = ""

    @property
    def is_forgetful(self) -> bool:
        """Whether later updates hold old values of buffers that the erased records changed."""
        return not all(map(is_additive, self._buffers.values()))

    def __call__(self, state: State) -> dict[str, Tensor]:
        """The state as it will be served.

        Args:
            state: Stitched, with the buffers of the original.
        """
        if not self._following:
            return self._measured(dict(state) | self._buffers, 1)
        limit = self._limit(state)
        tried: list[tuple[float, dict[str, Tensor]]] = []
        for finished in self._attempts(dict(state) | self._buffers):
            loss = self._loss(finished)
            if loss is None or (loss <= limit and not [*self._broken(finished)]):
                return finished
            tried.append((loss if np.isfinite(loss) else np.inf, finished))
        return min(tried, key=lambda each: each[0])[1]

    def faults(self, state: State, finished: State) -> tuple[str, ...]:
        """Why a finished state cannot be served.

        Args:
            state: Before it was finished.
            finished: After.
        """
        odd = [*self._not_finite(finished)]
        if odd:
            return (f"{', '.join(odd)} would not be finite",)
        loss = self._loss(finished)
        if loss is None:
            if self._loss(self._original()) is None:
                self.remark = "the loss cannot be taken in evaluation mode, so it was not checked"
                return tuple(self._broken(finished))
            return ("the loss of retained records could not be taken",)
        return (*self._trace_faults(), *self._loss_faults(state, loss), *self._broken(finished))

    def _trace_faults(self) -> Iterator[str]:
        """Whether the erased records are still felt in buffers, when replaying stopped.

        What was trained later was trained beside the original's buffers: where the replay's make
        another model of the same weights, it does not fit them.
        """
        # estimates of singular vectors belong to their weights, and are judged by the constraint
        estimates = tuple(
            f"{module}.{form}".lstrip(".")
            for name, _ in constrained(self._trainer.model)
            for module, _, tensor in [name.rpartition(".")]
            for form in (f"parametrizations.{tensor}.", f"{tensor}_u", f"{tensor}_v")
        )
        apart = {name: self._apart[name] for name in self._following}
        apart = {name: value for name, value in apart.items() if not name.startswith(estimates)}
        if not apart:
            return
        without, limit = self._loss(self._replayed), self._limit(self._replayed)
        felt = self._loss(dict(self._replayed) | apart)
        if without is not None and not abs((felt or 0.0) - without) <= limit - without:
            yield (
                f"the erased records would still be felt in buffers: the loss of retained records "
                f"is {felt or 0.0:.4g} with them, {without:.4g} without"
            )

    def _loss_faults(self, state: State, loss: float) -> Iterator[str]:
        if not np.isfinite(loss):
            before = self._loss(self._original())
            if before is None or np.isfinite(before):
                yield f"the loss of retained records would be {loss}"
        elif self._following and not loss <= (limit := self._limit(state)):
            yield (
                f"with buffers that never saw the erased records, the loss of retained ones would "
                f"be {loss:.4g}, more than {limit:.4g}"
            )

    def _not_finite(self, state: State) -> Iterator[str]:
        odd = [
            name
            for name, value in state.items()
            if (value.is_floating_point() or value.is_complex()) and not _is_finite(value)
        ]
        original = self._original() if odd else {}
        for name in odd:
            is_new = torch.isfinite(original[name]) & ~torch.isfinite(state[name])
            is_nan = torch.isnan(state[name]) & ~torch.isnan(original[name])
            if bool((is_new | is_nan).any()):
                yield repr(name)

    # Buffers

    def _attempts(self, state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Passes over ever more of the records that training saw last; at last none."""
        for batches in _BATCHES_PASSED if self._batches else ():
            yield self._measured(state, batches)
        yield self._measured(state, 0)

    def _measured(self, state: dict[str, Tensor], batches: int) -> dict[str, Tensor]:
        following = self._following if batches else frozenset()
        if not (following or self._is_last):
            return state
        blocks, count = self._blocks, batches
        if following or self._is_few:
            blocks, count = self._latest(max(batches, _BATCHES_PASSED[0]))
        passes = max(1, -(-batches // max(count, 1)))
        return reestimated(
            self._trainer, state, blocks, self._erased, following=following, passes=passes
        )

    def _latest(self, batches: int) -> tuple[range, int]:
        """The last blocks of the stretch that hold so many batches, and how many they hold.

        Not the replayed ones, gone through again and again: a running average of few records
        forgets what is rare among all.
        """
        layout, first, count = self._trainer.layout, self._until + 1, 0
        while first > 1 and count < batches:
            first -= 1
            count += layout.steps_once(first)
        return range(first, self._until + 1), count

    def _limit(self, state: State) -> float:
        """What the loss may be: that of the same weights with the original's buffers, and a bit."""
        loss = self._loss(state)
        if loss is None or not np.isfinite(loss):
            loss = self._loss(self._original())
        if loss is None or not np.isfinite(loss):
            return float("inf")
        if self._first_loss is None:
            self._first_loss = self._loss(self._trainer.initial().model) or 0.0
        gained = abs(self._first_loss - loss)
        return loss + _ALLOWED_LOSS * max(abs(loss), gained if np.isfinite(gained) else 0.0)

    def _loss(self, state: State) -> float | None:
        """Mean loss of a few retained batches in evaluation mode; None where it cannot be taken."""
        trainer, losses = self._trainer, []
        load_state(trainer.model, state)
        trainer.model.eval()
        try:
            for records in self._batches:
                batch = trainer.reader.batch(records)
                with trainer.environment.entered(), named("a batch in evaluation mode"):
                    seed_generators(key(trainer.recipe.seed, "judge"), trainer.recipe.device)
                    loss = trainer.forward(batch)
                if loss is not None:
                    losses.append(float(loss.detach()))
        except TrainingFailed:
            return None
        return float(np.mean(losses)) if losses else None

    # Parametrisations

    def _broken(self, state: State) -> Iterator[str]:
        """The constraints on weights that a state keeps worse than the original did."""
        if not any(True for _ in constrained(self._trainer.model)):
            return
        if self._known is None:
            self._known = self._distances(self._original())
        for name, distance in self._distances(state).items():
            if not distance <= 2 * self._known[name] + _ALLOWED_DISTANCE:
                yield (
                    f"the constraint on {name!r} would be missed by {distance:.3f}, "
                    f"{self._known[name]:.3f} by the original"
                )

    def _distances(self, state: State) -> dict[str, float]:
        trainer = self._trainer
        load_state(trainer.model, state)
        trainer.model.eval()
        with trainer.environment.entered(), torch.no_grad():
            return {name: measure() for name, measure in constrained(trainer.model)}


def constrained(model: nn.Module) -> Iterator[tuple[str, Callable[[], float]]]:
    """The weights of a model that have to keep a constraint, and how far they are from it.

    Spectral norms, which rest on a running estimate of singular vectors, and orthogonal matrices.
    Other parametrisations of torch hold by construction.
    """
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)  # noqa: S101 - torch's own
            for tensor, chain in module.parametrizations.items():
                last = [*chain.children()][-1]
                if isinstance(last, _SpectralNorm | _Orthogonal):
                    yield f"{name}.{tensor}", _measure(module, tensor, last)
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                yield f"{name}.{hook.name}", _old_measure(module, hook)


def _measure(module: nn.Module, tensor: str, last: nn.Module) -> Callable[[], float]:
    def distance() -> float:
        weight = getattr(module, tensor)
        if isinstance(last, _SpectralNorm):
            return abs(_norm(last._reshape_weight_to_matrix(weight)) - 1)
        tall = weight if weight.shape[-2] >= weight.shape[-1] else weight.mT
        unit = torch.eye(tall.shape[-1], dtype=tall.dtype, device=tall.device)
        return float((tall.mH @ tall - unit).abs().max())

    return distance


def _old_measure(module: nn.Module, hook: SpectralNorm) -> Callable[[], float]:
    def distance() -> float:
        weight = hook.compute_weight(module, do_power_iteration=False)
        return abs(_norm(hook.reshape_weight_to_matrix(weight)) - 1)

    return distance


def _norm(matrix: Tensor) -> float:
    """The spectral norm, by power iteration."""
    matrix = matrix.detach().double()
    vector = torch.ones(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    vector += torch.linspace(0, 0.1, len(vector), dtype=matrix.dtype, device=matrix.device)
    for _ in range(_POWER_ITERATIONS):
        vector = nn.functional.normalize(matrix.T @ (matrix @ vector), dim=0)
    return float((matrix @ vector).norm())


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.numel() or bool(torch.isfinite(tensor).all())
