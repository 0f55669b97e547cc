"""Story: what came of the demo, and the tables that it ends with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Column, Table

from obliviate.text import percent

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from obliviate.ledger.facts import Guarantee

_HARDLY = (
    "They were in that interval before, and still are: as far as scores tell, they had left "
    "hardly a trace."
)


@dataclass(frozen=True, kw_only=True)
class StoryRow:
    """One line of the demo's table of models.

    Attributes:
        model: Which model it is about.
        accuracy: On the test records.
        blocks: How many blocks were trained on, or again.
        seconds: How long that took.
        speedup: Against a full retrain; None where there is nothing to compare.
        guarantee: Of the model.
        digest: Of the model.
        is_equal: Whether it is the model trained without both people; None for that model itself.
    """

    model: str
    accuracy: float | None
    blocks: int
    seconds: float
    speedup: float | None
    guarantee: Guarantee
    digest: str
    is_equal: bool | None = None


@dataclass(frozen=True, kw_only=True)
class PersonRow:
    """How the records of one person are scored, on average.

    Attributes:
        person: Who.
        records: How many they are.
        before: By the model that the request found.
        target: What is expected of a model that never saw them; None where nothing says so.
        low: Lower end of its interval.
        high: Upper end.
        after: By the model that the request left.
        settled: By the settled model, which never saw them.
    """

    person: str
    records: int
    before: float
    target: float | None
    low: float | None
    high: float | None
    after: float
    settled: float | None = None

    def is_within(self, score: float | None) -> bool:
        """Whether a score is what is expected of a model that never saw them."""
        if score is None or self.low is None or self.high is None:
            return False
        return self.low <= score <= self.high

    def __str__(self) -> str:
        """What came of it, in words."""
        scored = f"Their mean score was {self.before:.2f} before and is {self.after:.2f} now."
        if self.target is None or self.low is None or self.high is None:
            return scored
        is_low, was_within = self.after < self.low, self.is_within(self.before)
        if self.is_within(self.after):
            ended = _HARDLY if was_within else "They stood out before, and do so no longer."
        else:
            ended = "More was taken off than needed." if is_low else "They stand out still."
        return (
            f"{scored} A model that never saw them is expected to have {self.target:.2f} "
            f"({self.low:.2f} to {self.high:.2f}). {ended}"
        )


@dataclass(frozen=True, kw_only=True)
class Story:
    """What came of the demo.

    Attributes:
        rows: The models in the order in which they came to be.
        people: Those who were forgotten.
        is_equal: Whether the settled model is, bit for bit, the one trained without both people.
        run: The run's folder.
        report: The report.
        curve: The picture of the last fast erasure; None where there was none.
    """

    rows: tuple[StoryRow, ...]
    people: tuple[PersonRow, ...]
    is_equal: bool
    run: Path
    report: Path
    curve: Path | None

    def print(self, console: Console) -> None:
        """Print how it ended."""
        console.print("", self._of_models(), "", self._of_people(), sep="\n")
        if self.is_equal:
            console.print(
                "The settled model is, bit for bit, the one that never saw them. The fast ones "
                "before it were there sooner, and are only approximate."
            )
        else:
            console.print("FAILED: the settled model is not the one trained without them.")
        if expected := [each for each in self.people if each.target is not None]:
            met = sum(each.is_within(each.settled) for each in expected)
            console.print(
                f"It scores the records of {met} of {len(expected)} people as was expected before "
                "it existed."
            )
        drawn = f", the picture in {self.curve}" if self.curve else ""
        console.print(f"The report is in {self.report}{drawn}.", soft_wrap=True)
        console.print(f"Go on with: obliviate status {self.run}", soft_wrap=True)

    def _of_models(self) -> Table:
        table = Table(
            Column("model", no_wrap=True),
            *("test accuracy", "blocks replayed", "seconds", "speedup", "guarantee", "digest"),
            "equals training\nwithout them",
        )
        words = {True: "yes", False: "no", None: "-"}
        for row in self.rows:
            table.add_row(
                row.model,
                percent(row.accuracy),
                str(row.blocks),
                f"{row.seconds:.1f}",
                "-" if row.speedup is None else f"{row.speedup:.1f}",
                row.guarantee,
                row.digest[:12],
                words[row.is_equal],
            )
        return table

    def _of_people(self) -> Table:
        expected = "expected of a model\nthat never saw them"
        table = Table("mean score of the records of", "before", expected, "after", "settled")
        for row in self.people:
            interval = (row.target, row.low, row.high)
            table.add_row(
                f"{row.person} ({row.records})",
                f"{row.before:.2f}",
                "-" if None in interval else "{:.2f} ({:.2f} to {:.2f})".format(*interval),
                f"{row.after:.2f}",
                "-" if row.settled is None else f"{row.settled:.2f}",
            )
        return table
