"""The bench with several workers: the same to the bit, and a killed call goes on."""

import os
from dataclasses import replace
from functools import partial

import pytest

import obliviate as ob
from tests.bench_project import made
from tests.processes import kill_midway, written

BY_THE_CLOCK = (  # a ledger is larger where more was committed apart, which goes by time
    "seconds",
    "speedup_seconds",
    "settle_seconds",
    "training_seconds",
    "predict_seconds",
    "disk_bytes",
)

asked = partial(
    ob.bench, made, methods="exact,finetune,sisa:shards=2", requests=[1], backdoor=False
)


def asked_in_a_group(folder):
    """What the process that is to be killed does; its workers are of its process group."""
    os.setsid()
    asked(folder, workers=2)


def timeless(comparison):
    rows = tuple(replace(row, **dict.fromkeys(BY_THE_CLOCK)) for row in comparison.rows)
    return replace(comparison, rows=rows, determinism=None)


@pytest.mark.slow
@pytest.mark.e2e
def test_two_workers_that_were_killed_find_what_one_does(tmp_path):
    folder = tmp_path / "side by side"
    before = kill_midway(asked_in_a_group, folder, cells=3)
    comparison = asked(folder, workers=2)
    assert before.items() < written(folder).items()
    assert not list((folder / "runs").iterdir())
    assert timeless(comparison) == timeless(asked(tmp_path / "alone"))
