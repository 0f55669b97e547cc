"""Methods of unlearning and baselines side by side, on ready projects in small sizes."""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import obliviate as ob
from benchmarks.page import measured_on, section_of, write
from obliviate.lab.bench.table import as_markdown, heading_of, notes_of
from obliviate.lab.presets import preset

if TYPE_CHECKING:
    from obliviate.lab.bench import Comparison

SIZES: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist": {"records": 2000, "epochs": 4, "blocks": 20},
    "fashion-mnist": {"records": 2000, "epochs": 4, "blocks": 20},
    "location": {"epochs": 5, "blocks": 20},
    "online-retail": {"records": 4000, "epochs": 4, "blocks": 20},
    "cifar10": {"records": 1000, "epochs": 3, "blocks": 100, "width": 4},
    "tofu": {"records": 300, "epochs": 3, "blocks": 10, "width": 32},
}
REQUESTS = {"digits": (1, 5)}
FEWER = (2,)


def compared(
    name: str, data: Path | None, folder: Path, methods: str, *, backdoor: bool
) -> Comparison:
    """What the bench finds; what was measured before is not measured again."""
    place = None if data is None or name == "digits" else data / name.replace("-", "_")
    return ob.bench(
        partial(preset, name, data=place, **SIZES[name]),
        folder / name,
        methods=methods,
        requests=REQUESTS.get(name, FEWER),
        backdoor=backdoor,
    )


def command(name: str, methods: str, *, backdoor: bool) -> str:
    """The same from the command line."""
    options = " ".join(f"-o {key}={value}" for key, value in SIZES[name].items())
    counts = ",".join(map(str, REQUESTS.get(name, FEWER)))
    plain = ("" if backdoor else " --no-backdoor") + ("" if name == "digits" else " --data FOLDER")
    return (
        f"obliviate bench {name} --methods {methods} --requests {counts}{plain} {options}".strip()
    )


def section(name: str, comparison: Comparison, said: str) -> str:
    """A preset's part of the page."""
    notes = [f"- {note}." for note in notes_of(comparison)]
    return "\n".join(
        [
            f"### {name}",
            "",
            f"`{said}`",
            "",
            f"{measured_on()} {heading_of(comparison)}.",
            "",
            as_markdown(comparison, is_wide=True),
            "",
            *notes,
        ]
    ).rstrip()


def parts_of(text: str) -> dict[str, str]:
    """The parts of presets that a page has, by name."""
    parts = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    named = {part.splitlines()[0]: f"### {part}".rstrip() for part in parts}
    return {name: part for name, part in named.items() if name in SIZES}


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=["digits"], help=", ".join(SIZES))
    parser.add_argument("--data", type=Path, help="a folder with a folder for each preset")
    parser.add_argument("--methods", default="all")
    parser.add_argument("--backdoor", action="store_true", help="plant one, in a second training")
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--page", action="store_true", help="write the tables into the page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts = {}
    for name in given.presets:
        found = compared(name, given.data, given.folder, given.methods, backdoor=given.backdoor)
        said = command(name, given.methods, backdoor=given.backdoor)
        parts[name] = section(name, found, said)
        print(parts[name], flush=True)
    if given.page:
        parts = parts_of(section_of("methods")) | parts
        tables = [parts[name] for name in SIZES if name in parts]
        write("methods", tables="\n\n".join(tables))


if __name__ == "__main__":
    main()
