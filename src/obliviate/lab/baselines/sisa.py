"""SISA: a model for each shard of the data; only the shard that held a record is trained again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np

from obliviate.disk.paths import local_folder
from obliviate.errors import InvalidOption
from obliviate.lab.baselines.ensemble import Ensemble
from obliviate.lab.baselines.needs import check_needs, classes
from obliviate.lab.baselines.shard import Shard
from obliviate.lab.baselines.sharding import Placement, retrained_share, slice_epochs
from obliviate.lab.baselines.unlearner import Unlearner
from obliviate.lab.baselines.voting import Aggregate
from obliviate.options import MOST_WHOLE, choice, listed, real, whole
from obliviate.recipe.deal import groups_of, key
from obliviate.recipe.subjects import Subjects
from obliviate.run.arguments import checked_recipe, data_length
from obliviate.training.determinism import environment_facts
from obliviate.training.first_step import probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from obliviate.events import Events
    from obliviate.lab.baselines.unlearner import Prepared
    from obliviate.recipe.recipe import Project, Recipe

_NOBODY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Sisa(Unlearner):
    """Sharded, isolated, sliced, aggregated training.

    The data are cut into shards, each with a model of its own, and each shard into slices. Step i
    of a shard trains on its slices 1 to i together, and leaves a checkpoint. Whoever is forgotten
    lies in one slice of one shard: that goes back to the checkpoint before the slice, and is
    trained on from there without them. What is forgotten at once, is trained once: each shard from
    its first slice that holds some of it. Predictions are those of all models together.

    Source: Bourtoule et al. 2021, "Machine Unlearning" (arXiv 1912.03817), and the authors' program
    (github.com/cleverhans-lab/machine-unlearning).

    Here people are never split between shards or slices, and all is reproducible, which the
    publication leaves open: a shard that was trained again has, bit for bit, the state of one that
    was trained without the records from its beginning. The optimizer's state is part of a
    checkpoint where the recipe carries it, and its schedule runs anew over each step.

    Prepared again with the same options and the same data, a folder goes on: with training where it
    was, and with a request that a killed process had begun.

    Attributes:
        shards: How many models.
        slices: How many slices each shard is cut into; a shard of fewer people has one for each.
        epochs: How many epochs of its shard each model is trained for; the recipe's if None. With
            slices they are spread over the steps so that as many records go through training.
        aggregate: "vote" for one vote of each model, "mean" for the mean of their probabilities.
        rates: How probable it is that each record is asked for, where that is known: shards get the
            same expected number of requests, and those who ask most often come last in their shard.
            An array of shape (records,), between 0 and 1. A person's is the highest of theirs.

    Raises:
        InvalidOption: An option is not allowed.
    """

    shards: int = 20
    slices: int = 1
    epochs: int | None = None
    aggregate: Aggregate = "vote"
    rates: Sequence[float] | None = None
    name: ClassVar[str] = "sisa"
    is_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given: dict[str, Any] = {
            "shards": whole(self.shards, "shards", least=1),
            "slices": whole(self.slices, "slices", least=1),
            "aggregate": choice(self.aggregate, "aggregate", get_args(Aggregate)),
        }
        if self.epochs is not None:
            given["epochs"] = whole(self.epochs, "epochs", least=1)
        if self.rates is not None:
            given["rates"] = _rates(self.rates)
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @property
    def expected_share(self) -> float:
        """What one request costs, as a share of training all shards, alike for all records.

        One over this is the expected speedup.
        """
        return retrained_share(self.shards, self.slices)

    def prepare(self, project: Project, folder: Path) -> Events[Prepared]:
        """Train a model of each shard; see `Unlearner.prepare`.

        Raises:
            InvalidOption: The project has too few people or epochs for so many shards and slices,
                or the folder was prepared with something else.
            RunLocked: Another call uses the folder.
            RunDamaged: The folder is not what was written there.
        """
        recipe, records = checked_recipe(project.recipe), data_length(project.data)
        people = None if project.subjects is None else Subjects.of(project.subjects, records)
        placement = self._placement(recipe, records, people)
        shards = tuple(self._shards(project, placement, people))
        trainer = shards[0].trainer()
        probe(trainer, _NOBODY)
        check_needs(self.name, trainer, [classes])
        facts = {
            "placement": placement.digest,
            "epochs": self.epochs or recipe.epochs,
            "recipe": trainer.fingerprint(),
            "environment": dict(shards[0].environment),
        }
        ensemble = Ensemble(local_folder(folder), shards, placement, self.aggregate)
        try:
            yield from ensemble.prepare(facts)
        except BaseException:
            ensemble.close()
            raise
        return ensemble

    def _placement(self, recipe: Recipe, records: int, people: Subjects | None) -> Placement:
        rates = None if self.rates is None else np.array(self.rates)
        if rates is not None and len(rates) != records:
            raise InvalidOption(
                f"there are {len(rates)} rates for {records} records",
                hint="give one for each record",
            )
        groups = np.arange(records, dtype=np.int64) if people is None else groups_of(people)
        return Placement.of(
            groups, shards=self.shards, slices=self.slices, seed=recipe.seed, rates=rates
        )

    def _shards(
        self, project: Project, placement: Placement, people: Subjects | None
    ) -> Iterator[Shard]:
        recipe = project.recipe
        epochs = self.epochs or recipe.epochs
        slice_epochs(epochs, self.slices)  # what cannot be is told of the whole
        environment = environment_facts(recipe.device, recipe.workers)
        for number, slices in enumerate(placement.slices):
            # models that begin alike, and are shuffled alike, would err alike
            seed = key(recipe.seed, "shard", number) & MOST_WHOLE
            yield Shard(
                recipe=replace(recipe, seed=seed),
                data=project.data,
                slices=slices,
                people=people,
                epochs=slice_epochs(epochs, len(slices)),
                environment=environment,
            )


def _rates(given: Any) -> tuple[float, ...]:
    hint = "give a probability between 0 and 1 for each record"
    rates = tuple(
        real(each, "rates", least=0, most=1, hint=hint) for each in listed(given, "rates", hint)
    )
    if not any(rates):
        raise InvalidOption("all rates are 0: nobody is ever asked for", hint=hint)
    return rates
