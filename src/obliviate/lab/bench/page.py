"""A comparison as a page: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from obliviate.lab.bench.table import all_columns, heading_of, name_of, notes_of, sections

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obliviate.lab.bench.comparison import Comparison


def page(comparison: Comparison, pictures: Mapping[str, bytes]) -> str:
    """The page, its pictures inlined.

    Args:
        comparison: What was found.
        pictures: PNGs, by what they show.
    """
    environment = Environment(
        loader=PackageLoader("obliviate.lab.bench", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        heading=heading_of(comparison),
        columns=all_columns(),
        sections=list(sections(comparison)),
        name_of=name_of,
        notes=notes_of(comparison),
        pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()},
    )
