"""A stream of people who ask one after the other: one chain that is settled at the end, and SISA.

`python -m benchmarks.stream --data MNIST`: a folder with MNIST's IDX files and the writers of its
digits. It takes ten minutes of one core.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import obliviate as ob
from benchmarks import plain
from benchmarks.page import table, write
from obliviate.events import finish
from obliviate.lab.baselines.registry import label_of
from obliviate.lab.baselines.retrain import Retrain
from obliviate.lab.baselines.sisa import Sisa
from obliviate.lab.bench.stream import Stream, stream_of
from obliviate.lab.presets import preset
from obliviate.recipe.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obliviate.lab.baselines import Cost
    from obliviate.lab.baselines.ensemble import Ensemble
    from obliviate.methods.method import Method

COUNTS = (10, 100)
FAST = (ob.Calibrated(back=1), ob.DeepObliviate(back=1))
SHARDED = Sisa(shards=20, slices=4)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What something took.

    Attributes:
        share: Of the blocks, or of the records, of training anew.
        seconds: Of the processor, which other work on the machine disturbs least.
    """

    share: float
    seconds: float


def spent(call: Callable[[], Any], share_of: Callable[[Any], float]) -> Spent:
    """Make a call, and look what it took."""
    started = time.process_time()
    answer = call()
    return Spent(share=share_of(answer), seconds=time.process_time() - started)


def row(
    way: str, took: list[Spent], accuracy: float, settled: Spent | None, settled_accuracy: float
) -> dict[str, object]:
    """What a stream took so far; nothing is settled of what is exact at once."""
    count, last = len(took), settled or Spent(share=0.0, seconds=0.0)
    return {
        "way": way,
        "requests": count,
        "share": mean(each.share for each in took),
        "seconds": mean(each.seconds for each in took),
        "settle share": last.share,
        "settle seconds": last.seconds,
        "all share": mean(each.share for each in took) + last.share / count,
        "all seconds": mean(each.seconds for each in took) + last.seconds / count,
        "accuracy": accuracy,
        "settled": settled_accuracy,
    }


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained, who asks, and where it all lies.

    Attributes:
        project: The project.
        counts: After how many requests the table has a row.
        stream: Who asks.
        folder: For runs and ensembles.
    """

    project: ob.Project
    counts: tuple[int, ...]
    stream: Stream
    folder: Path

    @property
    def chain(self) -> Path:
        """The run that all copies are made of."""
        return self.folder / "chain"

    def accuracy(self, model: object) -> float:
        """Percent of the test digits."""
        return plain.accuracy(model, self.project.test)

    def copied(self, chain: Path, name: str) -> ob.Run:
        """A copy of a run, opened."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(chain, place)
        return self.opened(place)

    def opened(self, place: Path) -> ob.Run:
        """A run that is there."""
        project = self.project
        return ob.load(place, project.recipe, project.data, reference=project.reference)


def _share_of(erasure: ob.Erasure) -> float:
    return erasure.blocks_replayed / erasure.blocks_total


def ours(setting: Setting, method: Method) -> Iterator[dict[str, object]]:
    """One model: each request fast, and after so many of them a copy is settled."""
    took: list[Spent] = []
    with setting.copied(setting.chain, "forgetting") as run:
        before = setting.accuracy(run.model)
        for count in setting.counts:
            for records in setting.stream.requests[len(took) : count]:
                call = partial(run.forget, records=list(records), method=method)
                took.append(spent(call, _share_of))
            accuracy = setting.accuracy(run.model)
            with setting.copied(setting.folder / "forgetting", "settling") as copy:
                settled = spent(copy.settle, _share_of)
                way = f"one model, {label_of(method)}"
                after = setting.accuracy(copy.model)
                yield row(way, took, accuracy, settled, after) | {"before": before}


def theirs(setting: Setting, sisa: Sisa) -> Iterator[dict[str, object]]:
    """An ensemble: the same requests, one by one; first what it is worth before."""
    place = setting.folder / "sisa"
    place.mkdir()
    ensemble, took = finish(sisa.prepare(setting.project, place)), []
    before = setting.accuracy(ensemble.predict)
    for request in setting.stream.requests:
        call = partial(_forgotten, ensemble, request)
        took.append(spent(call, lambda cost: cost.share))
        if len(took) in setting.counts:
            accuracy = setting.accuracy(ensemble.predict)
            yield row(label_of(sisa), took, accuracy, None, accuracy) | {"before": before}
    ensemble.close()


def _forgotten(ensemble: Ensemble, request: tuple[int, ...]) -> Cost:
    return finish(ensemble.forget(np.array(request)))


def retrained(setting: Setting) -> Spent:
    """Training anew, without keeping a chain."""
    return spent(lambda: finish(Retrain().prepare(setting.project, setting.folder)), lambda _: 1.0)


def section(setting: Setting, rows: list[dict[str, object]], facts: dict[str, Any]) -> None:
    """Write what was found into the page."""
    sizes = [len(each) for each in setting.stream.requests]
    project = setting.project
    write(
        "stream",
        records=len(project.data),
        people=len(set(project.subjects)),
        epochs=project.recipe.epochs,
        blocks=project.blocks,
        references=len(project.reference[0]),
        sizes=f"{min(sizes)} to {max(sizes)} digits, {median(sizes):.0f} in the median",
        sisa=label_of(SHARDED),
        table=table(
            [_shown(each, facts["retrain"]) for each in rows],
            dict.fromkeys(_shown(rows[0], 1.0), ""),
        ),
        **facts,
    )


def _shown(found: dict[str, Any], retrain: float) -> dict[str, object]:
    def times(share: float) -> str:
        return f"{1 / share:.0f}"

    return {
        "way": found["way"],
        "requests": found["requests"],
        "a request, in blocks": times(found["share"]),
        "seconds": f"{found['seconds']:.2f}",
        "times faster": times(found["seconds"] / retrain),
        "settling, trainings": f"{found['settle share']:.2f}" if found["settle share"] else "–",
        "with settling, in blocks": times(found["all share"]),
        "times faster then": times(found["all seconds"] / retrain),
        "accuracy before": f"{found['before']:.2f}",
        "after": f"{found['accuracy']:.2f}",
        "settled": f"{found['settled']:.2f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--records", type=int, default=20_000, help="the first digits")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=400)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--page", action="store_true", help="write the table into the page")
    given = parser.parse_args()
    options = {name: getattr(given, name) for name in ("records", "epochs", "blocks")}
    project = preset("mnist", data=given.data, **options)
    counts = tuple(sorted(given.counts))
    people = Subjects.of(project.subjects, len(project.data))
    stream = stream_of(people, len(project.data), longest=max(counts), size=None, seed=0)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as place:
        setting = Setting(project=project, counts=counts, stream=stream, folder=Path(place))
        fitting = spent(partial(_made, setting), lambda _: 1.0)
        with setting.opened(setting.chain) as run:
            before = setting.accuracy(run.model)
        retrain = retrained(setting)
        facts = {"before": before, "fit": fitting.seconds, "retrain": retrain.seconds}
        print(facts, flush=True)
        fast = chain.from_iterable(ours(setting, each) for each in FAST)
        for found in chain(fast, theirs(setting, SHARDED)):
            rows.append(found)
            print(found, flush=True)
            if given.page:
                section(setting, rows, facts)


def _made(setting: Setting) -> None:
    project = setting.project
    run = ob.fit(
        project.recipe,
        project.data,
        setting.chain,
        blocks=project.blocks,
        subjects=project.subjects,
        reference=project.reference,
    )
    run.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
