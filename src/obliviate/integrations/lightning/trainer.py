"""What trains a LightningModule for a run: Lightning's own loops, over the run's batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from obliviate.integrations.lightning.step import LightningStep
from obliviate.recipe.recipe import Recipe, invalid
from obliviate.recipe.user_code import named
from obliviate.training.sharing import ALONE
from obliviate.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from torch import nn
    from torch.utils.data import Dataset

    from obliviate.integrations.lightning.plan import LightningPlan
    from obliviate.training.layout import Layout, Microbatch
    from obliviate.training.protocol import Checkpoint, Tried
    from obliviate.training.sharing import Sharing


class LightningTrainer(Trainer):
    """Trains a module on blocks as Lightning would on batches."""

    def __init__(
        self,
        recipe: LightningRecipe,
        data: Dataset[Any],
        layout: Layout,
        environment: Mapping[str, str],
        content_key: bytes | None = None,
        *,
        model: nn.Module | None = None,
        moving: Collection[str] = (),
        before: Trainer | None = None,
    ) -> None:
        """Make a model, or take one over; see `Trainer`."""
        self._plan = recipe.plan
        self._plan.use(layout)
        super().__init__(
            recipe,
            data,
            layout,
            environment,
            content_key,
            model=model,
            moving=moving,
            before=before,
        )
        self._step: LightningStep = LightningStep(recipe, self.model, layout)

    def fingerprint(self) -> dict[str, str]:
        """The recipe in comparable words, and what Lightning makes of it."""
        return super().fingerprint() | {"lightning": self._plan.words()}

    def try_steps(
        self,
        start: Checkpoint,
        block: int,
        microbatches: Sequence[Microbatch],
        sharing: Sharing = ALONE,
    ) -> Tried:
        """See `BlockTrainer.try_steps`; what hooks do is looked at, too."""
        with self._step.on_trial():
            tried = super().try_steps(start, block, microbatches, sharing)
            with self.environment.entered(), named("a hook of the module"):
                self._step.end()
        return tried


@dataclass(frozen=True, kw_only=True)
class LightningRecipe(Recipe):
    """A recipe that a Lightning script makes.

    Attributes:
        plan: What Lightning would do.
    """

    plan: LightningPlan
    trainer: ClassVar[Callable[..., Any] | None] = LightningTrainer

    def __post_init__(self) -> None:
        """See that nobody says here what Lightning goes by.

        Raises:
            InvalidRecipe: Somebody does; or see `Recipe`.
        """
        super().__post_init__()
        told = {
            "microbatches": (self.plan.microbatches, "accumulate_grad_batches"),
            "clip_norm": (None, "gradient_clip_val"),
            "precision": ("fp32", "precision"),
        }
        faults = [
            f"{name}={getattr(self, name)!r} is for the Trainer to say: {said}"
            for name, (usual, said) in told.items()
            if getattr(self, name) != usual
        ]
        if faults:
            raise invalid(faults)
