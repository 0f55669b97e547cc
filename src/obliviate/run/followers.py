"""Followers: what the ranks behind rank 0 do for each call of a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from obliviate.chain.verification import Verification
from obliviate.erasure.results import Erasure, Extension, Failure, Work
from obliviate.errors import ForeignData, error_of
from obliviate.run.carried import Carried
from obliviate.run.comparison import words_of
from obliviate.run.extend import Addition, growing, is_unfinished, joined, resumed
from obliviate.run.served import Served
from obliviate.training.messages import told_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obliviate.ledger import ExportFacts, RequestFacts
    from obliviate.recipe.recipe import Recipe
    from obliviate.run.run import Run
    from obliviate.training.protocol import BlockTrainer


class OfRun:
    """Of a call of a run that is open on every rank."""

    def __init__(self, run: Run, *args: Any, **kwargs: Any) -> None:
        """Take what the call is given."""
        self._run, self._given = run, {"given": args, **kwargs}

    @property
    def words(self) -> Mapping[str, Any]:
        """See `Follower`."""
        run = self._run
        data = {"records": str(run.facts.records), "lacking": str(run.writer.lacks)}
        return {"run": run.ledger.name, "data": data, "options": words_of(**self._given)}

    @property
    def recipe(self) -> Recipe:
        """See `Follower`."""
        return self._run.recipe

    def compared(self, words: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG002
        """See `Follower`; there is a run already."""
        return {}

    def rehearse(self) -> None:
        """See `Follower`; most calls train nothing."""

    def rehearsed(self) -> BlockTrainer:
        """See `Follower`."""
        return self._run.trainer

    def trainer(self, parts: int) -> BlockTrainer:
        """See `Follower`."""
        if parts != len(self._run.facts.parts):
            raise ForeignData(
                "the run was extended since it was opened here",
                hint="load it again on all ranks, with the data that it has now",
            )
        return self._run.trainer

    def _told_of(self, erasure: Erasure) -> dict[str, Any]:
        return {
            "number": erasure.number,
            "ignored": list(erasure.ignored),
            "seconds": erasure.seconds,
        }

    def _erasure(self, told: Mapping[str, Any]) -> Erasure:
        return Served.by(self._run.writer, str(self._run.folder)).erasure(
            Carried(
                chain=self._run.chain(),
                number=told["number"],
                ignored=tuple(told["ignored"]),
                seconds=told["seconds"],
            )
        )


class Training(OfRun):
    """Of calls that train."""

    def rehearse(self) -> None:
        """See `Follower`."""
        self._run.rehearse()


class Erasing(Training):
    """Of `forget` and `settle`."""

    told = OfRun._told_of
    result = OfRun._erasure


class Working(Training):
    """Of `work`."""

    def told(self, result: Work) -> dict[str, Any]:
        """See `Follower`."""
        failed = [(list(each.requests), told_of(each.error)) for each in result.failed]
        return {"carried": list(map(self._told_of, result)), "failed": failed}

    def result(self, told: Mapping[str, Any]) -> Work:
        """See `Follower`."""
        failed = [
            Failure(requests=tuple(requests), error=error_of(**error))
            for requests, error in told["failed"]
        ]
        return Work(map(self._erasure, told["carried"]), failed)


class Verifying(Training):
    """Of `verify`."""

    @staticmethod
    def told(result: Verification) -> dict[str, Any]:
        """See `Follower`."""
        return {
            name: list(value.items()) if isinstance(value, dict) else list(value)
            for name, value in asdict(result).items()
        }

    @staticmethod
    def result(told: Mapping[str, Any]) -> Verification:
        """See `Follower`."""
        return Verification(
            reproduced=tuple(told["reproduced"]),
            failed=dict(told["failed"]),
            skipped=dict(told["skipped"]),
            journal=tuple(told["journal"]),
            rebuilt=tuple(told["rebuilt"]),
            changed=dict(told["changed"]),
        )


class Extending(Training):
    """Of `extend`."""

    def __init__(self, run: Run, data: Any, **options: Any) -> None:
        """Take what the call is given."""
        super().__init__(run, **options)
        self._addition = Addition(data=data, **options)
        self._trainers: dict[int, BlockTrainer] = {}
        self._whole: Any = None

    def _begin(self) -> None:
        """Have the whole dataset, before rank 0 has written anything."""
        run, addition = self._run, self._addition
        if self._whole is not None:
            return
        if is_unfinished(run.writer) or run.writer.lacks:
            self._whole = resumed(run.writer, run.data, addition)
            run.renew(self._whole, run.trainer)
        else:
            self._whole = joined(run.data, addition.data)

    def trainer(self, parts: int) -> BlockTrainer:
        """See `Follower`."""
        self._begin()
        if parts == len(self._run.facts.parts):
            return self._run.trainer
        if parts not in self._trainers:
            self._trainers[parts] = growing(self._run.writer, self._whole, self._addition)
        return self._trainers[parts]

    @staticmethod
    def told(result: Extension) -> dict[str, Any]:
        """See `Follower`."""
        return asdict(result)

    def result(self, told: Mapping[str, Any]) -> Extension:
        """See `Follower`."""
        self._begin()
        run = self._run
        if run.ledger.run().parts != run.facts.parts:
            run.renew(self._whole, run.trainer)
        return Extension(
            records=told["records"],
            blocks=told["blocks"],
            excluded=tuple(told["excluded"]),
            reingested=tuple(told["reingested"]),
            requested=tuple(told["requested"]),
        )


class Requesting(OfRun):
    """Of `request` and `refuse`."""

    @staticmethod
    def told(result: RequestFacts) -> int:
        """See `Follower`."""
        return result.id

    def result(self, told: int) -> RequestFacts:
        """See `Follower`."""
        return next(each for each in self._run.requests() if each.id == told)


class Exporting(OfRun):
    """Of `export`."""

    @staticmethod
    def told(result: ExportFacts) -> int:
        """See `Follower`."""
        return result.id

    def result(self, told: int) -> ExportFacts:
        """See `Follower`."""
        return next(each for each in self._run.ledger.exports.all() if each.id == told)


class Withdrawing(OfRun):
    """Of `withdraw`."""

    @staticmethod
    def told(result: list[ExportFacts]) -> list[int]:
        """See `Follower`."""
        return [each.id for each in result]

    def result(self, told: list[int]) -> list[ExportFacts]:
        """See `Follower`."""
        return [each for each in self._run.exports() if each.id in told]


class Counting(OfRun):
    """Of calls whose result is a number, some names, or nothing."""

    @staticmethod
    def told(result: Any) -> Any:
        """See `Follower`."""
        return list(result) if isinstance(result, tuple) else result

    @staticmethod
    def result(told: Any) -> Any:
        """See `Follower`."""
        return tuple(told) if isinstance(told, list) else told
