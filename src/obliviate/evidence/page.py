"""The report as a page: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from obliviate.disk.paths import local_folder
from obliviate.errors import StorageFull
from obliviate.evidence.chart import picture
from obliviate.evidence.statement import gathered
from obliviate.ledger.ledger import PAGE_NAME, PICTURE_NAME, REPORTS_NAME
from obliviate.text import counted, decimal, duration, moment, percent

if TYPE_CHECKING:
    from pathlib import Path

    from obliviate.evidence.statement import Evidence


def page(evidence: Evidence) -> str:
    """The report in HTML, its pictures inlined."""
    environment = Environment(
        loader=PackageLoader("obliviate.evidence", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": duration,
        "moment": moment,
        "counted": counted,
        "decimal": decimal,
        "percent": percent,
    }
    pictures = {
        each.number: base64.b64encode(picture(each.curve, each.ending)).decode()
        for each in evidence.erasures
        if each.curve
    }
    return environment.get_template("page.html").render(evidence=evidence, pictures=pictures)


def saved_page(folder: str | Path, evidence: Evidence | None = None) -> Path:
    """Write a run's report into its folder and return the path.

    Raises:
        RunMissing, RunDamaged, OtherFormat: The run cannot be read.
        StorageFull: The file cannot be written.
    """
    return _saved(folder, PAGE_NAME, page(evidence or gathered(folder)).encode())


def saved_picture(folder: str | Path, number: int) -> Path | None:
    """Write the picture of an erasure into the run's folder; None where it has none.

    Raises:
        RunMissing, RunDamaged, OtherFormat: The run cannot be read.
        StorageFull: The file cannot be written.
    """
    erasure = next(each for each in gathered(folder).erasures if each.number == number)
    if erasure.curve is None:
        return None
    drawn = picture(erasure.curve, erasure.ending)
    return _saved(folder, PICTURE_NAME.format(number), drawn)


def _saved(folder: str | Path, name: str, content: bytes) -> Path:
    path = local_folder(folder) / REPORTS_NAME / name
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise StorageFull(
            f"{path} cannot be written ({error.strerror})",
            hint="make room or allow writing there, then call `obliviate report`; the run itself "
            "is as it should be",
        ) from error
    return path
