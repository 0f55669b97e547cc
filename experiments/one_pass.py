"""The page docs/one_pass.md: its tables, its goals and its text, from what was measured."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from grid import FIXED_STOPS, HERE, Experiment, one_pass

TEMPLATE, TARGET = HERE / "one_pass.md", HERE.parent / "docs" / "one_pass.md"
PAPER, OURS = "deepobliviate", "calibrated"
SCORING = "scoring.json"
Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """An experiment and what the laboratory left of it."""

    experiment: Experiment
    found: dict[str, Any]

    def of(self, method: str) -> Row:
        """The finding of a method."""
        return next(row for row in self.found["findings"] if row["method"] == method)

    @property
    def paper(self) -> Row:
        """The paper's stitch after as many blocks as ours replayed, or the nearest measured."""
        held = len(self.found["affected"])
        wanted = self.of(OURS)["blocks_replayed"] / held
        stop = min(FIXED_STOPS, key=lambda each: abs(each - wanted))
        return self.of(f"{PAPER}:blocks={stop}")

    @property
    def ratio(self) -> float:
        """Our shift in units of the exact replay's."""
        return self.of(OURS)["shift"] / self.of("exact")["shift"]

    @property
    def is_stitched(self) -> bool:
        """Whether ours stopped before the end, so that there is more to ask than of a retrain."""
        return self.of(OURS)["blocks_replayed"] < self.of("exact")["blocks_replayed"]

    @property
    def has_trace(self) -> bool:
        """Whether the originals can be told from retrains at all: twice the floor."""
        return self.of("nothing")["shift"] > 2 * self.of("exact")["shift"]


def measured(labs: Path) -> list[Measured]:
    """All experiments of one pass that have been measured."""
    found = []
    for experiment in one_pass():
        file = labs / experiment.name / "lab.json"
        if file.exists():
            found.append(Measured(experiment, json.loads(file.read_text())))
    return found


def table(rows: list[Row]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "| " + " | ".join("---" for _ in rows[0]) + " |"]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    return "\n".join(lines)


def shifts(some: list[Measured]) -> str:
    """What each method leaves, beside what is there without it and what chance gives."""
    return table([_shifts_row(each) for each in some]) if some else "Not measured yet."


def _shifts_row(each: Measured) -> Row:
    ours, paper, original = each.of(OURS), each.paper, each.of("nothing")
    return {
        "model": each.experiment.family,
        "where": each.experiment.options["place"],
        "N": each.found["seeds"],
        "original": f"{original['shift']:.2f}",
        "exact": f"{each.of('exact')['shift']:.2f}",
        "**calibrated**": f"**{ours['shift']:.2f}**",
        "its blocks": f"{ours['blocks_replayed']:g} of {each.found['blocks']}",
        "its bias": signed(ours),
        "paper, as many blocks": f"{paper['shift']:.2f}",
        "its bias ": signed(paper),
        "paper, own rule": f"{each.of(PAPER)['shift']:.2f} ({each.of(PAPER)['blocks_replayed']:g})",
        "calibrated agrees": share(ours["agreeing"]),
        "original agrees": share(original["agreeing"]),
    }


def signed(row: Row) -> str:
    """A bias with its standard error."""
    return f"{row['bias']:+.2f} ± {row['bias_error']:.2f}"


def share(value: float | None) -> str:
    """A share in percent."""
    return "-" if value is None else f"{100 * value:.0f} %"


def accuracies(some: list[Measured], name: str) -> str:
    """Mean accuracy on the test records or on a probe, in percent."""
    rows = []
    for each in some:
        found = {
            method: each.of(method)["accuracies"].get(name)
            for method in ("nothing", "exact", OURS, PAPER)
        } | {"paper": each.paper["accuracies"].get(name)}
        if found["exact"] is None:
            continue
        rows.append(
            {
                "model": each.experiment.family,
                "where": each.experiment.options["place"],
                "original": f"{100 * found['nothing']:.2f}",
                "exact": f"{100 * found['exact']:.2f}",
                "**calibrated**": f"**{100 * found[OURS]:.2f}**",
                "paper, as many blocks": f"{100 * found['paper']:.2f}",
                "paper, own rule": f"{100 * found[PAPER]:.2f}",
            }
        )
    return table(rows) if rows else "Not measured yet."


def fades(some: list[Measured]) -> str:
    """The exponent of each trace, and how large it is."""
    rows = []
    for each in some:
        fade = each.found["fade"]
        rows.append(
            {
                "model": each.experiment.family,
                "where": each.experiment.options["place"],
                "gap at lag 2": f"{fade['erased'][1]:.2f}",
                "at the end": f"{fade['erased'][-1]:.2f}",
                "lag of the end": fade["lags"][-1],
                "h": "-" if fade["h"] is None else f"{fade['h']:.2f}",
                "controls at the end": f"{fade['controls'][-1]:+.2f}",
                **_foretold(each.of(OURS)["foretold"]),
            }
        )
    return table(rows) if rows else "Not measured yet."


def _foretold(foretold: Row | None) -> Row:
    told = foretold or {}
    return {
        "predicted": f"{told['predicted']:.2f}" if told else "-",
        "found": f"{told['found']:.2f}" if told else "-",
        "interval holds it": share(told.get("covered")),
    }


def goals(found: list[Measured]) -> str:
    """Each goal, and how far it was reached."""
    return "\n".join(f"- {line}" for line in _goals(found))


def _goals(found: list[Measured]) -> list[str]:
    short = [
        each for each in found if each.experiment.blocks == 30 and is_kind(each, "mislabelled")
    ]
    families = sorted({each.experiment.family for each in short})
    means = {
        name: statistics.mean(each.ratio for each in short if each.experiment.family == name)
        for name in families
    }
    good = [name for name, ratio in means.items() if ratio <= 1.15]
    above = [each for each in found if each.of(OURS)["shift"] > each.of("nothing")["shift"]]
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in means.items())
    stitched = {
        name: statistics.mean(
            each.ratio for each in short if each.experiment.family == name and each.is_stitched
        )
        for name in families
    }
    alone = ", ".join(f"{name} {ratio:.2f}" for name, ratio in stitched.items())
    return [
        f"Shift of calibrated at most 1.15 times the exact replay's [in 5 of 6 families]: in "
        f"**{len(good)} of {len(families)}** (mean over the places below: {told}). Without the "
        f"late places, which the method replays to the end: in "
        f"{sum(ratio <= 1.15 for ratio in stitched.values())} of {len(families)} ({alone}).",
        f"Never above the original's [0]: above in **{len(above)} of {len(found)}** experiments"
        + (f" ({', '.join(map(_place, above))})." if above else "."),
        *_cost(found),
        *_against_the_paper(found),
        *_honesty(found),
    ]


def _place(each: Measured) -> str:
    ours, original = each.of(OURS)["shift"], each.of("nothing")["shift"]
    options = each.experiment.options
    words = f"{each.experiment.family} {options['kind']} {options['place']}"
    return f"{words}: {ours:.2f} for {original:.2f}"


def _cost(found: list[Measured]) -> list[str]:
    lines = []
    for blocks in (100, 500):
        some = [each for each in found if each.experiment.blocks == blocks]
        if some:
            told = ", ".join(f"{each.of(OURS)['blocks_replayed']:g}" for each in some)
            least = min(blocks / each.of(OURS)["blocks_replayed"] for each in some)
            lines.append(
                f"Blocks replayed at B={blocks}, median over the seeds [4 at most]: **{told}**; "
                f"speedup in blocks **{least:.0f}** at least"
                + (" [120]." if blocks == 500 else ".")
            )
        else:
            lines.append(f"Blocks replayed at B={blocks} [4 at most]: not measured yet.")
    apart = [
        (100 * abs(_test(each, OURS) - _test(each, "exact")), each)
        for each in found
        if _test(each, "exact") is not None
    ]
    if apart:
        worst, where = max(apart, key=lambda pair: pair[0])
        within = sum(gap <= 0.2 for gap, _ in apart)
        lines.append(
            f"Test accuracy within 0.2 points of the exact replay's: in **{within} of "
            f"{len(apart)}** experiments; the largest distance is {worst:.2f} points "
            f"({where.experiment.name})."
        )
    return lines


def _test(each: Measured, method: str) -> Any:
    return each.of(method)["accuracies"].get("test")


def _against_the_paper(found: list[Measured]) -> list[str]:
    some = [each for each in found if each.has_trace and each.is_stitched]
    stitched = [each for each in found if each.is_stitched]
    nearer = [each for each in stitched if each.of(OURS)["shift"] < each.paper["shift"]]
    half = [each for each in some if each.of(OURS)["shift"] <= each.paper["shift"] / 2]
    return [
        f"At most half the shift of the paper's stitch after as many blocks, wherever something "
        f"was stitched and the original is above twice the floor: in **{len(half)} of "
        f"{len(some)}**. Nearer to the retrains than it, of all experiments in which something was "
        f"stitched: in {len(nearer)} of {len(stitched)}."
    ]


def _honesty(found: list[Measured]) -> list[str]:
    found = [each for each in found if each.is_stitched]
    fine, agreed = _fine_and_agreed(found)
    return [
        "Where the check says fine the laboratory agrees [90 %]: in "
        f"**{agreed} of {fine}** erasures, **{share(agreed / max(fine, 1))}**. "
        f"Of the exact replays {_agreeing(found, 'exact')} agree, of the paper's stitches after as "
        f"many blocks {_agreeing(found, None)}, of the originals {_agreeing(found, 'nothing')}."
    ]


def honest(found: list[Measured]) -> str:
    """For each family, how often the check says fine, and how often the laboratory agrees."""
    rows = []
    stitched = [each for each in found if each.is_stitched]
    for name in sorted({each.experiment.family.split()[0] for each in stitched}):
        some = [each for each in stitched if each.experiment.family.split()[0] == name]
        fine, agreed = _fine_and_agreed(some)
        seeds = sum(each.found["seeds"] for each in some)
        rows.append(
            {
                "model": name,
                "erasures": seeds,
                "the check says fine": fine,
                "the laboratory agrees": f"{agreed} ({share(agreed / fine) if fine else '-'})",
                "exact replays agree": _agreeing(some, "exact"),
                "originals agree": _agreeing(some, "nothing"),
            }
        )
    return table(rows) if rows else "Not measured yet."


def _fine_and_agreed(found: list[Measured]) -> tuple[int, int]:
    agreed = fine = 0.0
    for each in found:
        ours, count = each.of(OURS), each.found["seeds"]
        if ours["agreeing_of_passed"] is not None:
            fine += ours["passed"] * count
            agreed += ours["agreeing_of_passed"] * ours["passed"] * count
    return round(fine), round(agreed)


def _agreeing(found: list[Measured], method: str | None) -> str:
    seeds = sum(each.found["seeds"] for each in found)
    rows = [(each.of(method) if method else each.paper, each.found["seeds"]) for each in found]
    return share(sum(row["agreeing"] * count for row, count in rows) / max(seeds, 1))


def scoring(labs: Path) -> str:
    """What scoring and choosing ρ cost, as `experiments/scoring.py` measured it."""
    file = labs / SCORING
    rows = [
        {
            "model": each["family"],
            "of one block's replay": share(each["block"]),
            "of all that was replayed": share(each["whole"]),
        }
        for each in (json.loads(file.read_text()) if file.exists() else [])
    ]
    return table(rows) if rows else "Not measured yet."


def is_kind(each: Measured, kind: str) -> bool:
    """What was to be forgotten."""
    return each.experiment.options["kind"] == kind


def commands(found: list[Measured]) -> str:
    """What measures each row, as it is typed."""
    methods = " ".join(f"-m {row['method']}" for row in found[0].found["findings"][2:])
    lines = [f"{each.experiment.command()} METHODS" for each in found]
    return "\n".join([*lines, "", f"METHODS: {methods}"])


def processor() -> str:
    """The processor's name, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")


def write(labs: Path) -> None:
    """Write the page."""
    found = measured(labs)
    order = {"early": 0, "middle": 1, "late": 2}
    found.sort(key=lambda each: (each.experiment.family, order[each.experiment.options["place"]]))
    wrong = [each for each in found if is_kind(each, "mislabelled")]
    short = [each for each in wrong if each.experiment.blocks == 30]
    longer = [each for each in wrong if each.experiment.blocks > 30]
    longer.sort(key=lambda each: each.experiment.blocks)
    backdoor = [each for each in found if is_kind(each, "backdoor")]
    text = TEMPLATE.read_text().format(
        date=datetime.now(UTC).date(),
        processor=processor(),
        cores=os.cpu_count(),
        torch=torch.__version__,
        goals=goals(found),
        honest=honest(found),
        scoring=scoring(labs),
        mislabelled=shifts(short),
        longer=shifts(longer),
        subject=shifts([each for each in found if is_kind(each, "subject")]),
        backdoor=shifts(backdoor),
        success=accuracies(backdoor, "backdoor"),
        accuracy=accuracies([*short, *longer], "test"),
        fades=fades([*short, *longer]),
        commands=commands(found),
    )
    TARGET.write_text(text)
