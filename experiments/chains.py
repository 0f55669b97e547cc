"""The page docs/forgetting.md: its tables and goals, from what was measured on chains of epochs."""

from __future__ import annotations

import json
import os
import statistics
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import torch

from grid import HERE, chains_of_epochs
from one_pass import Measured, Row, processor, share, signed, table

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE, TARGET = HERE / "chains.md", HERE.parent / "docs" / "forgetting.md"
OURS, NEARER, PAPER = "calibrated", "calibrated:back=5", "deepobliviate:blocks=2,back=4"
BACKDOOR = "backdoor"


def measured(labs: Path) -> list[Measured]:
    """All experiments on chains of epochs that have been measured."""
    found = []
    for experiment in chains_of_epochs():
        file = labs / experiment.name / "lab.json"
        if file.exists():
            found.append(Measured(experiment, json.loads(file.read_text())))
    return found


def rows(some: list[Measured]) -> str:
    """What each method leaves, beside what is there without it and what chance gives."""
    return table([_row(each) for each in some]) if some else "Not measured yet."


def _row(each: Measured) -> Row:
    ours, original, exact = each.of(OURS), each.of("nothing"), each.of("exact")
    told = ours["foretold"] or {}
    return {
        "model": each.experiment.family.split()[-1],
        "S": f"{each.experiment.options['kind']}, {each.experiment.options['place']}",
        "N": each.found["seeds"],
        "original": f"{original['shift']:.2f}",
        "exact": f"{exact['shift']:.2f}",
        "**calibrated**": f"**{ours['shift']:.2f}**",
        "blocks": f"{ours['blocks_replayed']:g}",
        "bias": signed(ours),
        "original's bias": signed(original),
        "from 5 epochs": f"{each.of(NEARER)['shift']:.2f}",
        "ρ = 1": f"{each.of(PAPER)['shift']:.2f}",
        "holds": share(told.get("covered")),
        "accuracy: original, exact, calibrated": ", ".join(
            _percent(row["accuracies"].get("test")) for row in (original, exact, ours)
        ),
        **_backdoor(each),
    }


def _backdoor(each: Measured) -> Row:
    if each.experiment.options["kind"] != BACKDOOR:
        return {"attack: original, exact, calibrated": "-"}
    found = (each.of(method)["accuracies"].get(BACKDOOR) for method in ("nothing", "exact", OURS))
    return {"attack: original, exact, calibrated": ", ".join(map(_percent, found))}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def goals(found: list[Measured]) -> str:
    """Each goal, and how far it was reached."""
    wrong = [each for each in found if each.experiment.options["kind"] == "mislabelled"]
    families = sorted({each.experiment.family for each in wrong})
    ratios = {
        name: statistics.mean(each.ratio for each in wrong if each.experiment.family == name)
        for name in families
    }
    told = ", ".join(f"{name.split()[-1]} {ratio:.1f}" for name, ratio in ratios.items())
    good = [name for name, ratio in ratios.items() if ratio <= 1.3]
    felt = [each for each in wrong if each.has_trace]
    halved = [each for each in felt if each.of(OURS)["shift"] <= each.of("nothing")["shift"] / 2]
    clear = [
        each for each in found if each.of("nothing")["shift"] > 1.4 * each.of("exact")["shift"]
    ]
    above = [each for each in clear if each.of(OURS)["shift"] > each.of("nothing")["shift"]]
    blocks = statistics.median(each.of(OURS)["blocks_replayed"] for each in found)
    held = _held(found)
    apart = [
        100 * abs(each.of(OURS)["accuracies"]["test"] - each.of("exact")["accuracies"]["test"])
        for each in found
        if each.of("exact")["accuracies"].get("test") is not None
    ]
    lines = [
        "Shift of mislabelled people at most 1.3 times the exact replay's [in 5 of 6 families]: in "
        f"**{len(good)} of {len(families)}** ({told}).",
        "At most half the original's, wherever that is above twice the floor [all]: in "
        f"**{len(halved)} of {len(felt)}**.",
        "Above the original's, where that is above 1.4 times the floor [0]: "
        f"**{len(above)} of {len(clear)}**.",
        f"Blocks replayed [20 of 500]: **{blocks:g} of 100** in the median. As many of 500, where "
        "an epoch has 50.",
        "The interval of the target, 90 %, holds the exact replay's mean score [90 % in all, 85 % "
        f"in each family]: {held}.",
    ]
    if apart:
        near = sum(gap <= 0.2 for gap in apart)
        lines.append(
            "Test accuracy within 0.2 points of the exact replay's [95 %; worst 0.5]: in "
            f"**{near} of {len(apart)}**; the largest distance is {max(apart):.2f} points."
        )
    return "\n".join(f"- {line}" for line in lines)


def _held(found: list[Measured]) -> str:
    """How often the interval held, in all and family by family."""
    counts: dict[str, list[tuple[float, int]]] = {}
    for each in found:
        told = each.of(OURS)["foretold"]
        if told:
            name = each.experiment.family.split()[-1]
            counts.setdefault(name, []).append((told["covered"] * told["seeds"], told["seeds"]))
    shares = {
        name: sum(held for held, _ in some) / sum(seeds for _, seeds in some)
        for name, some in counts.items()
    }
    seeds = sum(count for some in counts.values() for _, count in some)
    held = sum(value for some in counts.values() for value, _ in some) / max(seeds, 1)
    told = ", ".join(f"{name} {share(value)}" for name, value in sorted(shares.items()))
    return f"in **{share(held)}** of {seeds} seeds ({told})"


def write(labs: Path) -> None:
    """Write the page."""
    found = measured(labs)
    wrong = [each for each in found if each.experiment.options["kind"] == "mislabelled"]
    text = TEMPLATE.read_text().format(
        date=datetime.now(UTC).date(),
        processor=processor(),
        cores=os.cpu_count(),
        version=torch.__version__,
        goals=goals(found),
        mislabelled=rows(wrong),
        others=rows([each for each in found if each not in wrong]),
    )
    TARGET.write_text(text)
