"""The demo: real images as people's records, two of whom ask to be forgotten.

It is an ordinary project too: `obliviate status demo/run` and all the other commands work on the
run that it leaves.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from torch import nn
from torch.utils.data import TensorDataset

from obliviate.cli.options import Json
from obliviate.cli.output import DONE, FAILED, Answer
from obliviate.cli.story import PersonRow, Story, StoryRow
from obliviate.cli.terminal import printing, watch_replay
from obliviate.datasets import digits
from obliviate.errors import InvalidOption, StorageFull
from obliviate.evidence import gathered, page, saved_picture
from obliviate.lab import accuracy, audit
from obliviate.lab.scores import scores
from obliviate.ledger import Ledger
from obliviate.recipe.parts import usual_keep
from obliviate.recipe.recipe import Project, Recipe
from obliviate.run.make import check_place, is_made
from obliviate.run.start import fit
from obliviate.text import counted
from obliviate.training.batches import feed_of
from obliviate.training.determinism import Environment
from obliviate.training.ranks import check_alone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from obliviate.erasure.results import Erasure
    from obliviate.run import Run

FIRST, SECOND = "person-017", "person-046"
RUN_NAME, PAGE_NAME, CURVE_NAME = "run", "report.html", "curve.png"
EPOCHS, BLOCKS, _MOST_RECORDS, _CLASSES = 5, 60, 9, 10


app = typer.Typer()


@app.command()
def demo(
    *,
    folder: Annotated[Path, typer.Option(help="Where to leave what comes of it.")] = Path("demo"),
    json: Json = False,
) -> Answer:
    """Train on real images, forget two people, settle, and prove it; takes a minute."""
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
    """The demo's project: scikit-learn's 1,797 digits, 1,500 of them to train on.

    The labels of the second person's are wrong: a model can only know them by heart. The others
    serve to test on, and as references.
    """
    data, test = digits()
    inputs, targets = data.tensors
    subjects = people(len(data))
    is_wrong = torch.tensor([person == SECOND for person in subjects])
    data = TensorDataset(inputs, torch.where(is_wrong, (targets + 1) % _CLASSES, targets))
    recipe = Recipe(
        model=network,
        optimizer=partial(torch.optim.SGD, lr=0.03),
        loss=nn.functional.cross_entropy,
        batch_size=2,
        epochs=EPOCHS,
        schedule=falling,
    )
    return Project(
        recipe=recipe, data=data, test=test, subjects=subjects, blocks=BLOCKS, reference=test
    )


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
    check_alone("the demo")
    place = _cleared(folder)
    source = other or project()
    console.rule("Obliviate: make a trained model forget people", align="left")
    started = time.perf_counter()
    run = _fitted(source, place, console)
    rows = [
        StoryRow(
            model="original",
            accuracy=accuracy(run.model, source.test, collate=source.recipe.collate),
            blocks=run.facts.blocks,
            seconds=time.perf_counter() - started,
            speedup=None,
            guarantee=run.guarantee,
            digest=run.digest,
        )
    ]
    console.print(
        "\nA record's score is the log odds that the model gives to the label it came with. The "
        f"labels of {SECOND}'s digits are wrong: those the model can only know by heart."
    )
    forgotten: list[PersonRow] = []
    for number, person in enumerate((FIRST, SECOND), start=1):
        erasure, row = _forgotten(run, source, person, console)
        rows.append(_row(f"after forgetting {number}", erasure, source))
        forgotten.append(row)
        picture = saved_picture(run.folder, number)
        with _writing(folder):  # settling destroys the run's own: it would confirm guesses
            if picture is not None:  # nor is there one of what was replayed exactly at last
                shutil.copyfile(picture, folder / CURVE_NAME)
    console.print("\nSettling: one exact replay for both requests.")
    settled = watch_replay(run.settle.events())
    rows.append(_row("after settling", settled, source))
    forgotten = [
        replace(each, settled=_mean_score(settled.model, source, each.person)) for each in forgotten
    ]
    rows.append(_retrained(run, source, console))
    return _told(run, rows, forgotten, folder, console)


def _fitted(source: Project, place: Path, console: Console) -> Run:
    kept = usual_keep(source.recipe.epochs, has_references=source.reference is not None)
    console.print(
        f"\nTraining on {counted(len(source.data), 'record')} of "  # type: ignore[arg-type]
        f"{len(set(source.subjects or ()))} people: {counted(source.recipe.epochs, 'epoch')} of "
        f"{counted(source.blocks, 'block')}, in each of which a person's records lie together. "
        f"The state after every block of the last {kept} is kept."
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


def _forgotten(
    run: Run, source: Project, person: str, console: Console
) -> tuple[Erasure, PersonRow]:
    before = _mean_score(run.model, source, person)
    plan = run.preview(subjects=[person])
    reached = f", {len(plan.affected)} of them in the last epochs" if plan.unreached else ""
    console.print(
        f"\n{person} asks to be forgotten: {counted(len(plan.records), 'record')}, in "
        f"{counted(len(plan.unreached + plan.affected), 'block')} of {plan.blocks}{reached}.\n"
        f"Expected: {plan.blocks_replayed} of {plan.blocks} "
        f"blocks to replay, {plan.seconds:.1f} s; exactly, {plan.seconds_exact:.1f} s."
    )
    erasure = watch_replay(run.forget.events(subjects=[person]))
    proved = "" if erasure.guarantee == "exact" else ": nothing is proved yet"
    console.print(
        f"Done in {erasure.seconds:.1f} s after {erasure.blocks_replayed} blocks, by "
        f"{erasure.method}. It is {erasure.guarantee}{proved}."
    )
    for reason in erasure.too_shallow:
        console.print(f"The fast way was not good enough, so more was replayed: {reason}.")
    ending = erasure.ending
    row = PersonRow(
        person=person,
        records=erasure.records,
        before=before,
        target=ending.target if ending else None,
        low=ending.low if ending else None,
        high=ending.high if ending else None,
        after=_mean_score(erasure.model, source, person),
    )
    console.print(str(row))
    return erasure, row


def _mean_score(model: nn.Module, source: Project, person: str) -> float:
    ids = np.flatnonzero(np.array(source.subjects) == person)
    feed = feed_of(source.data, workers=0, collate=source.recipe.collate)
    return float(scores(model, source.recipe, feed, ids).mean())


def _row(model: str, erasure: Erasure, source: Project) -> StoryRow:
    return StoryRow(
        model=model,
        accuracy=accuracy(erasure.model, source.test, collate=source.recipe.collate),
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


def _told(
    run: Run, rows: list[StoryRow], people: list[PersonRow], folder: Path, console: Console
) -> Story:
    *before, last = rows
    models = [_judged(row, last.digest) for row in before]
    curve, report = folder / CURVE_NAME, folder / PAGE_NAME
    with _writing(folder):
        report.write_text(page(gathered(run.folder)), encoding="utf-8")
    run.ledger.close()
    story = Story(
        rows=(*models, last),
        people=tuple(people),
        is_equal=bool(models[-1].is_equal),
        run=run.folder,
        report=report,
        curve=curve if curve.exists() else None,
    )
    story.print(console)
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
    (folder / CURVE_NAME).unlink(missing_ok=True)
    return place
