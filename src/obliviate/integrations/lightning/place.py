"""Places in a training, as Lightning counts them, and schedulers that are stepped by them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from obliviate.recipe.recipe import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

    from obliviate.training.layout import Layout, Microbatch


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a microbatch stands, which Lightning calls a batch.

    It depends on the layout alone, whoever has been erased.

    Attributes:
        epoch: From 0.
        batch: Of the epoch, from 0.
        batches: How many the epoch has.
        step: How many steps of the optimizer come before it.
        is_last: Whether the optimizer makes its step behind it.
    """

    epoch: int = 0
    batch: int = 0
    batches: int = 1
    step: int = 0
    is_last: bool = True


def place_of(layout: Layout, block: int, microbatch: Microbatch, *, is_last: bool) -> Place:
    """The place of a microbatch of a block.

    Args:
        layout: Of the run.
        block: Its number.
        microbatch: One of its microbatches.
        is_last: Whether those behind it in its step are empty.
    """
    first_block = max(each.first_block for each in layout.parts if each.first_block <= block)
    ends, count = epoch_ends(layout, first_block), layout.microbatch_count
    step = layout.first_step(block) + microbatch.step
    epoch = bisect_right(ends, step)
    first = ends[epoch - 1] if epoch else 0
    return Place(
        epoch=epoch,
        batch=(step - first) * count + microbatch.number,
        batches=(ends[epoch] - first) * count,
        step=step,
        is_last=is_last,
    )


def epoch_ends(layout: Layout, first_block: int) -> list[int]:
    """How many steps are made by the end of each epoch of a part.

    Args:
        layout: Of the run.
        first_block: The part's.
    """
    part = next(each for each in layout.parts if each.first_block == first_block)
    starts = range(first_block + part.blocks, first_block + part.length, part.blocks)
    return [*map(layout.first_step, starts), layout.total_steps(first_block)]


class Cadence:
    """Schedulers of one optimizer, stepped as Lightning steps them: by steps, or by epochs.

    Attributes:
        optimizer: Whose groups they move.
    """

    def __init__(
        self, configs: Sequence[Any], optimizer: Optimizer, ends: Sequence[int], microbatches: int
    ) -> None:
        """Step nothing yet.

        Args:
            configs: What Lightning makes of `configure_optimizers`, one for each scheduler.
            optimizer: Whose groups are moved, be it the schedulers' own or one like it.
            ends: How many steps are made by the end of each epoch.
            microbatches: How many of them, which are Lightning's batches, make a step.
        """
        self.optimizer, self._configs, self._ends = optimizer, configs, ends
        self._microbatches, self._made = microbatches, 0
        self._follow()

    def step(self) -> None:
        """Go on from one step of the optimizer to the next."""
        epoch = bisect_right(self._ends, self._made)
        self._made += 1
        batches = (self._made - (self._ends[epoch - 1] if epoch else 0)) * self._microbatches
        due = {"step": batches}
        if self._made == self._ends[epoch]:
            due["epoch"] = epoch + 1
        for interval, count in due.items():
            for config in self._configs:
                if config.interval == interval and count % config.frequency == 0:
                    self._go_on(config.scheduler)
        self._follow()

    def _go_on(self, scheduler: Any) -> None:
        try:
            scheduler.step()
        except ValueError as error:
            raise invalid(
                [
                    f"lr_scheduler {type(scheduler).__name__} at step {self._made} of "
                    f"{self._ends[-1]}: {error}; the number of steps is "
                    "self.trainer.estimated_stepping_batches"
                ]
            ) from error

    def _follow(self) -> None:
        for config in self._configs:
            own = config.scheduler.optimizer
            if own is not self.optimizer:
                for group, moved in zip(self.optimizer.param_groups, own.param_groups, strict=True):
                    group.update({name: moved[name] for name in moved if name != "params"})
