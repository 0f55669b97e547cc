"""The report: what a regulator reads, and what must not be in it."""

import json
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate.evidence import Curve, gathered, page, picture, saved_page, saved_picture
from obliviate.text import plain

PERSON = "alice-of-the-unmistakable-name"
NEVER = "certified"
BLOCKS = 20
HALVES = slice(80), slice(80, 140)
STOPPED = ob.Calibrated(blocks=2)  # whatever its check says


@pytest.fixture
def run(recipe_of, tmp_path):
    generator = torch.Generator().manual_seed(7)
    data = TensorDataset(torch.randn(80, 4, generator=generator), torch.arange(80) % 3)
    subjects = [PERSON if record in (3, 50) else f"user-{record}" for record in range(80)]
    return ob.fit(recipe_of(), data, tmp_path / "run", blocks=BLOCKS, subjects=subjects)


def members(run, block):
    return run.trainer.layout.members(block).tolist()


def test_a_run_without_erasures(run):
    evidence = gathered(run.folder)
    assert (evidence.records, evidence.erased, evidence.left_out) == (80, 0, 0)
    assert (evidence.guarantee, evidence.digest) == ("exact", run.digest)
    assert evidence.journal_head == run.status().journal_head
    assert evidence.journal_head in page(evidence)
    assert evidence.erasures == ()
    assert "None has been asked for." in page(evidence)


def test_the_story_of_a_run(run):
    first = run.forget(records=members(run, 2)[:1], method=ob.DeepObliviate(epsilon=9))
    evidence = gathered(run.folder)
    assert evidence.guarantee == "approximate"
    assert evidence.first_approximate == run.status().first_approximate
    assert "Nothing is proved" in evidence.meaning
    (one,) = evidence.erasures
    assert (one.kind, one.records, one.guarantee, one.digest) == (
        "forget",
        1,
        "approximate",
        first.digest,
    )
    assert one.options == {"epsilon": 9}
    assert one.curve.residual_memory == first.residual_memory
    assert one.curve.affected == (2,)
    assert one.digest_before == first.digest_before
    assert evidence.objects_destroyed == len(run.ledger.objects.keys("destroyed")) > 0
    shown = page(evidence)
    for told in (first.digest, first.stop_reason, "deepobliviate", "epsilon = 9"):
        assert told in shown.replace("&lt;", "<")
    assert shown.count("data:image/png;base64,") == 1


def test_once_it_is_settled_nothing_is_told_of_what_was_measured(run):
    first = run.forget(records=members(run, 2)[:1], method=ob.DeepObliviate(epsilon=9))
    written = [saved_page(run.folder), saved_picture(run.folder, 1)]
    kept = written[0].parent / "letter.html"
    kept.write_text("to the person")
    settled = run.settle()
    assert [path for path in written if path.exists()] == []
    assert kept.exists()
    evidence = gathered(run.folder)
    one, two = evidence.erasures
    assert (one.state, one.segments, one.blocks_replayed) == (
        "settled",
        first.segments,
        first.blocks_replayed,
    )
    assert (one.curve, one.digest, one.digest_before, one.predicted_tail) == (None,) * 4
    assert (two.kind, two.curve, two.digest) == ("settle", None, settled.digest)
    assert settled.residual_memory
    assert settled.digest_before == first.digest
    assert evidence.first_approximate is None
    shown = page(evidence)
    assert "were destroyed when the run became exact" in shown
    assert "data:image/png" not in shown
    for gone in (first.digest, first.digest_before, first.stop_reason):
        assert gone not in shown.replace("&lt;", "<")
    assert saved_picture(run.folder, 1) is None


def test_an_estimate_counts_the_blocks_stitched_between_segments(run):
    far_apart = members(run, 3)[:1] + members(run, run.facts.blocks)[:1]
    run.forget(records=far_apart, method=ob.DeepObliviate(epsilon=9))
    (erasure,) = gathered(run.folder).erasures
    assert len(erasure.curve.segments) == 2
    assert erasure.curve.segments[-1][1] == run.facts.blocks
    assert erasure.predicted_tail > 0


def test_the_trace_as_a_function_is_shown_but_not_that_of_one_record(run):
    many, one = members(run, 2)[:3], members(run, 9)[:1]
    erasures = [
        run.forget(records=records, method=ob.Calibrated(tolerance=100)) for records in (many, one)
    ]
    shown = page(gathered(run.folder))
    for erasure, evidence in zip(erasures, gathered(run.folder).erasures, strict=True):
        (stitch,) = erasure.stitches
        (told,) = evidence.stitches
        assert told.rho == stitch.rho
        assert f"ρ = {stitch.rho:.3f}" in shown
        assert "Check: passed" in shown
        assert evidence.curve.control_memory == erasure.control_memory
        is_shown = evidence.records > 1
        assert evidence.curve.has_function == is_shown
        assert told.reached == (stitch.reached if is_shown else None)
    assert erasures[1].functional_memory[0] is not None


@pytest.fixture
def referred(recipe_of, tmp_path):
    """Two epochs, with references; some erased records of it end beside a target."""
    generator = torch.Generator().manual_seed(7)
    inputs, targets = torch.randn(140, 4, generator=generator), torch.arange(140) % 3
    data, reference = (TensorDataset(inputs[part], targets[part]) for part in HALVES)
    return ob.fit(recipe_of(epochs=2), data, tmp_path / "run", blocks=10, reference=reference)


def test_where_the_erased_records_ended_is_shown(referred):
    erasure = referred.forget(records=[3, 4, 50, 51, 52], method=STOPPED)
    (told,) = gathered(referred.folder).erasures
    ending = told.ending
    assert (ending.target, ending.reached) == (erasure.ending.target, erasure.ending.reached)
    assert ending.verdict == erasure.ending.verdict
    for own, shown in zip(erasure.ending.scores, ending.scores, strict=True):
        assert shown == pytest.approx((np.mean(own[:3]), np.mean(own[3:])))
    shown = page(gathered(referred.folder))
    assert "60 references" in shown
    for number in (ending.target, ending.low, ending.high, ending.before, ending.reached):
        assert f"{number:.3f}" in shown
    assert shown.count(f"Check: {ending.verdict}") == 1
    assert size(saved_picture(referred.folder, 1).read_bytes()) == (1200, 1020)


def test_but_not_where_a_single_record_ended(referred):
    erasure = referred.forget(records=[3], method=STOPPED)
    evidence = gathered(referred.folder)
    ending = evidence.erasures[0].ending
    assert (ending.is_met, ending.reference) == (erasure.ending.is_met, erasure.ending.reference)
    facts, shown = json.dumps(plain(evidence)), page(evidence)
    for number in (erasure.ending.target, erasure.ending.before, erasure.ending.reached):
        assert str(number) not in facts
    assert erasure.ending.verdict not in facts + shown
    assert "Of a single record it is not shown" in shown
    assert f"Check: {'passed' if ending.is_met else 'failed'}." in shown
    assert "in an interval of their own" not in shown
    assert size(saved_picture(referred.folder, 1).read_bytes()) == (1200, 510)


def test_once_it_is_settled_nothing_is_told_of_where_they_ended(referred):
    erasure = referred.forget(records=[3, 4, 50], method=STOPPED)
    referred.settle()
    evidence = gathered(referred.folder)
    assert evidence.erasures[0].ending is None
    shown = page(evidence)
    assert "What was measured on the way" in shown
    assert "Target" not in shown
    assert erasure.ending.verdict not in shown


def test_that_a_replay_began_again_is_told_without_its_figures(run):
    run.forget(records=[5])
    evidence = gathered(run.folder)
    assert "Begun again" not in page(evidence)
    again = replace(evidence.erasures[0], begun_again=2)
    assert "2 times, from further back" in page(replace(evidence, erasures=(again,)))


def test_what_every_report_says(run):
    shown = page(gathered(run.folder))
    assert "Evidence of procedure, not proof of absence." in shown
    assert "Backups" in shown
    assert "exported" in shown
    assert "Models derived from it" in shown
    assert NEVER not in shown.lower()


def test_nobody_is_named(run):
    erased = run.forget(subjects=[PERSON])
    facts = json.dumps(plain(gathered(run.folder)))
    for told in (facts, page(gathered(run.folder))):
        assert PERSON not in told
        assert erased.digest in told
        # ids come in lists or in words such as "record 50"
        assert not re.search(r"record 50\b|\[3, 50\]", told)


def test_a_failed_erasure_does_not_quote_its_reason(run):
    def failing(_model, _batch):
        raise KeyError(PERSON)

    object.__setattr__(run.recipe, "step", failing)
    with pytest.raises(ob.errors.TrainingFailed, match=PERSON):
        run.forget(subjects=[PERSON])
    (erasure,) = gathered(run.folder).erasures
    assert (erasure.state, erasure.curve, erasure.digest) == ("failed", None, None)
    shown = page(gathered(run.folder))
    assert "taken back" in shown
    assert PERSON not in shown


def test_an_erasure_that_is_not_finished_is_told(run):
    run.ledger.erasures.begin("forget", {"name": "exact"}, np.array([3]))
    evidence = gathered(run.folder)
    assert evidence.is_interrupted
    assert "under way or was interrupted" in page(evidence)
    assert evidence.erased == 0


def test_a_run_that_is_not_finished_promises_nothing(recipe_of, data, tmp_path):
    events = ob.fit.events(recipe_of(), data, tmp_path / "run", blocks=8)
    next(events)
    events.close()
    evidence = gathered(tmp_path / "run")
    assert evidence.blocks_done < evidence.blocks
    assert evidence.guarantee is None
    assert "not been trained to its end" in page(evidence)


def test_records_left_out_are_no_erasures(recipe_of, data, tmp_path):
    ob.fit(recipe_of(), data, tmp_path / "run", blocks=4, exclude=[1, 2])
    evidence = gathered(tmp_path / "run")
    assert (evidence.left_out, evidence.erased) == (2, 0)


def test_names_are_escaped(recipe_of, data, tmp_path):
    ob.fit(recipe_of(), data, tmp_path / "<b>run", blocks=4)
    shown = page(gathered(tmp_path / "<b>run"))
    assert "<b>run" not in shown
    assert "&lt;b&gt;run" in shown


def test_nothing_is_fetched(run):
    run.forget(records=[5])
    shown = page(gathered(run.folder))
    assert "http" not in shown
    assert "<script" not in shown


def test_there_is_no_report_without_a_run(tmp_path):
    with pytest.raises(ob.errors.RunMissing):
        saved_page(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_named(run):
    (run.folder / "reports").write_text("a file")
    with pytest.raises(ob.errors.StorageFull, match=r"report\.html"):
        saved_page(run.folder)


# The picture


def curve(**changes):
    facts = {
        "segments": ((3, 6), (9, 9), (12, 15)),
        "residual_memory": (0.9, 0.5, 0.4, 0.3, 0.2, 0.8, 0.5, 0.4, 0.35),
        "affected": (3, 9, 12, 14),
        "blocks": 20,
        "method": "deepobliviate",
    }
    return Curve(**(facts | changes))


def size(png):
    assert png.startswith(b"\x89PNG\r\n")
    return struct.unpack(">II", png[16:24])


def test_series_begin_where_erased_records_lie():
    assert curve().series() == [
        (3, [0.9, 0.5, 0.4, 0.3]),
        (9, [0.2]),
        (12, [0.8, 0.5]),
        (14, [0.4, 0.35]),
    ]


def test_the_functional_memory_is_drawn_below():
    memory = (2.0, 1.5, 1.2, 1.1, None, 2.0, 1.0, 0.9, 0.8)
    with_both = curve(functional_memory=memory, control_memory=(0.1,) * 9)
    assert size(picture(with_both)) == (1200, 1020)
    nothing = curve(functional_memory=(None,) * 9, control_memory=(0.1,) * 9)
    assert size(picture(nothing)) == (1200, 510)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "exact"},
        {"affected": ()},
        {"segments": ((20, 20),), "residual_memory": (0.0,)},
        {"segments": ((1, 500),), "residual_memory": (0.1,) * 500, "blocks": 500},
    ],
)
def test_every_curve_can_be_drawn(changes):
    assert size(picture(curve(**changes))) == (1200, 510)


def test_the_picture_of_an_erasure_is_kept(run):
    erasure = run.forget(records=[5])
    path = saved_picture(run.folder, erasure.number)
    assert path == run.folder / "reports" / f"erasure-{erasure.number}.png"
    assert size(path.read_bytes()) == (1200, 510)
