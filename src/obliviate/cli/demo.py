"""The demo: real images as people's records, two of whom ask to be forgotten.

It is an ordinary project too: `obliviate status demo/run` and all the other commands work on the
run that it leaves.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from rich.table import Column, Table
from torch import nn

from obliviate.cli.options import Json
from obliviate.cli.output import DONE, FAILED, Answer
from obliviate.cli.terminal import printing, watch_replay
from obliviate.datasets import digits
from obliviate.errors import InvalidOption, StorageFull
from obliviate.evidence import gathered, page, saved_picture
from obliviate.lab import accuracy, audit
from obliviate.ledger import Ledger
from obliviate.recipe.parts import usual_keep
from obliviate.recipe.recipe import Project, Recipe
from obliviate.run.make import check_place, is_made
from obliviate.run.start import fit
from obliviate.text import counted, percent
from obliviate.training.determinism import Environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from obliviate.erasure.results import Erasure
    from obliviate.ledger.facts import Guarantee
    from obliviate.run import Run

FIRST, SECOND = "person-017", "person-044"
RUN_NAME, PAGE_NAME, CURVE_NAME = "run", "report.html", "curve.png"
EPOCHS, BLOCKS, _MOST_RECORDS = 3, 60, 9


app = typer.Typer()


@app.command()
def demo(
    *,
    folder: Annotated[Path, typer.Option(help="Where to leave what comes of it.")] = Path("demo"),
    json: Json = False,
) -> Answer:
    """Train on real images, forget two people, settle, and prove it; takes half a minute."""
    console = printing()
    console.quiet = json
    story = demonstrate(folder, console)
    return Answer(facts=vars(story), code=DONE if story.is_equal else FAILED)


def network() -> nn.Module:
    """A small convolutional network with dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def falling(step: int, total: int) -> float:
    """The learning rate falls to almost nothing over the chain."""
    return 1.01 - step / total


def people(records: int) -> list[str]:
    """An owner for each record: about a fifth as many people, with one to nine records each."""
    owners: list[str] = []
    number = 0
    while len(owners) < records:
        number += 1
        owners += [f"person-{number:03d}"] * (1 + (number + 2) % _MOST_RECORDS)
    # as they come in: nobody's lie side by side before they are dealt
    order = np.random.default_rng(0).permutation(records)
    return [owners[at] for at in order]


def project() -> Project:
    """The demo's project: scikit-learn's 1,797 digits, 1,500 of them to train on."""
    data, test = digits()
    recipe = Recipe(
        model=network,
        optimizer=partial(torch.optim.SGD, lr=0.03),
        loss=nn.functional.cross_entropy,
        batch_size=2,
        epochs=EPOCHS,
        schedule=falling,
    )
    return Project(recipe=recipe, data=data, test=test, subjects=people(len(data)), blocks=BLOCKS)


@dataclass(frozen=True, kw_only=True)
class StoryRow:
    """One line of the demo's table.

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
class Story:
    """What came of the demo.

    Attributes:
        rows: The models in the order in which they came to be.
        is_equal: Whether the settled model is, bit for bit, the one trained without both people.
        run: The run's folder.
        report: The report.
        curve: The picture of the first erasure's residual memory.
    """

    rows: tuple[StoryRow, ...]
    is_equal: bool
    run: Path
    report: Path
    curve: Path


def demonstrate(folder: Path, console: Console, other: Project | None = None) -> Story:
    """Train, forget two people fast, settle, and train without them from scratch to compare.

    Args:
        folder: Where the run, the report and the picture are left; what an earlier demo left there
            is replaced.
        console: Where the story is told.
        other: Another project that has the two people among its subjects.

    Raises:
        InvalidOption: The folder holds something else.
        StorageFull: The folder cannot be written to.
    """
    place = _cleared(folder)
    source = other or project()
    console.rule("Obliviate: make a trained model forget people", align="left")
    started = time.perf_counter()
    run = _fitted(source, place, console)
    rows = [
        StoryRow(
            model="original",
            accuracy=accuracy(run.model, source.test),
            blocks=run.facts.blocks,
            seconds=time.perf_counter() - started,
            speedup=None,
            guarantee=run.guarantee,
            digest=run.digest,
        )
    ]
    for number, person in enumerate((FIRST, SECOND), start=1):
        rows.append(_row(f"after forgetting {number}", _forgotten(run, person, console), source))
    with _writing(folder):  # settling destroys the run's own: it would confirm guesses
        shutil.copyfile(saved_picture(run.folder, 1) or "", folder / CURVE_NAME)
    console.print("\nSettling: one exact replay for both requests.")
    rows.append(_row("after settling", watch_replay(run.settle.events()), source))
    rows.append(_retrained(run, source, console))
    return _told(run, rows, folder, console)


def _fitted(source: Project, place: Path, console: Console) -> Run:
    console.print(
        f"\nTraining on {counted(len(source.data), 'record')} of "  # type: ignore[arg-type]
        f"{len(set(source.subjects or ()))} people: {counted(source.recipe.epochs, 'epoch')} of "
        f"{counted(source.blocks, 'block')}, in each of which a person's records lie together. "
        f"Of the last {usual_keep(source.recipe.epochs)}, the state after every block is kept."
    )
    remembered = {"file": str(Path(__file__).resolve()), "options": "{}"}
    # on so small a network threads wait for each other more than they help; the run remembers it
    with Environment(source.recipe.device, threads=1).entered():
        return fit(
            source.recipe,
            source.data,
            place,
            blocks=source.blocks,
            subjects=source.subjects,
            reference=source.reference,
            project=remembered,
        )


def _forgotten(run: Run, person: str, console: Console) -> Erasure:
    plan = run.preview(subjects=[person])
    console.print(
        f"\n{person} asks to be forgotten: {counted(len(plan.records), 'record')}, in "
        f"{counted(len(plan.unreached + plan.affected), 'block')} of {plan.blocks}, "
        f"{len(plan.affected)} of them in the last epochs.\n"
        f"Expected: {plan.blocks_replayed} of {plan.blocks} "
        f"blocks to replay, {plan.seconds:.1f} s; exactly, {plan.seconds_exact:.1f} s."
    )
    erasure = watch_replay(run.forget.events(subjects=[person]))
    console.print(
        f"Done in {erasure.seconds:.1f} s after {erasure.blocks_replayed} blocks "
        f"({erasure.stop_reason}). It is {erasure.guarantee}: nothing is proved yet."
    )
    return erasure


def _row(model: str, erasure: Erasure, source: Project) -> StoryRow:
    return StoryRow(
        model=model,
        accuracy=accuracy(erasure.model, source.test),
        blocks=erasure.blocks_replayed,
        seconds=erasure.seconds,
        speedup=erasure.speedup,
        guarantee=erasure.guarantee,
        digest=erasure.digest,
    )


def _retrained(run: Run, source: Project, console: Console) -> StoryRow:
    console.print("\nTraining from scratch without both of them, to compare.")
    retraining = audit(run, source.test)
    return StoryRow(
        model="trained without both",
        accuracy=retraining.accuracy_retrained,
        blocks=run.facts.blocks,
        seconds=retraining.seconds,
        speedup=None,
        guarantee="exact",
        digest=retraining.digest_retrained,
    )


def _told(run: Run, rows: list[StoryRow], folder: Path, console: Console) -> Story:
    *before, last = rows
    models = [_judged(row, last.digest) for row in before]
    curve, report = folder / CURVE_NAME, folder / PAGE_NAME
    with _writing(folder):
        report.write_text(page(gathered(run.folder)), encoding="utf-8")
    run.ledger.close()
    story = Story(
        rows=(*models, last),
        is_equal=bool(models[-1].is_equal),
        run=run.folder,
        report=report,
        curve=curve,
    )
    _print_end(story, console)
    return story


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFull(
            f"{folder} cannot be written to ({error.strerror})", hint="choose another --folder"
        ) from error


def _judged(row: StoryRow, digest: str) -> StoryRow:
    return replace(row, is_equal=row.digest == digest)


def _print_end(story: Story, console: Console) -> None:
    table = Table(
        Column("model", no_wrap=True),
        *("test accuracy", "blocks replayed", "seconds", "speedup", "guarantee", "digest"),
        "equals training\nwithout them",
    )
    words = {True: "yes", False: "no", None: "-"}
    for row in story.rows:
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
    console.print()
    console.print(table)
    if story.is_equal:
        console.print(
            "The settled model is, bit for bit, the one that never saw them. The fast ones before "
            "it were there sooner, and are only approximate."
        )
    else:
        console.print("FAILED: the settled model is not the one trained without them.")
    console.print(f"The report is in {story.report}, the curve in {story.curve}.", soft_wrap=True)
    console.print(f"Go on with: obliviate status {story.run}", soft_wrap=True)


def _cleared(folder: Path) -> Path:
    """The place for the run, without what an earlier demo left there."""
    place = folder / RUN_NAME
    hint = "choose another place with --folder"
    if folder.exists() and not folder.is_dir():
        raise InvalidOption(f"{folder} is a file", hint=hint)
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names - {RUN_NAME, PAGE_NAME, CURVE_NAME} or (names and RUN_NAME not in names):
        raise InvalidOption(f"{folder} holds other things than an earlier demo", hint=hint)
    check_place(place)
    if is_made(place):
        ledger = Ledger(place)
        file = ledger.run().project.get("file", "")
        ledger.close()
        if Path(file).name != Path(__file__).name:
            raise InvalidOption(f"{place} holds a run of another project, {file}", hint=hint)
    shutil.rmtree(place, ignore_errors=True)
    return place
