"""The command line, as a user or a script meets it: exit codes, messages, JSON, nothing changed."""

import contextlib
import json
import re
import sqlite3
import traceback
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import obliviate as ob
from obliviate.cli import app, commands
from obliviate.ledger import Ledger
from obliviate.text import plain
from obliviate.training.layout import Layout
from tests import prepared
from tests.models import parts_of
from tests.project_file import write_project

DOCUMENT = Path(__file__).parents[1] / "docs" / "cli.md"


def call(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    raised = "".join(traceback.format_exception(*result.exc_info)) if result.exc_info else ""
    assert result.exit_code == code, f"{result.output}\n{raised}"
    return result


def ask(*words, code=0):
    """Call with --json; the whole of standard output must be one object."""
    return json.loads(call(*words, "--json", code=code).stdout)


@pytest.fixture
def project(tmp_path):
    return write_project(tmp_path)


@pytest.fixture
def run(project, tmp_path):
    folder = tmp_path / "run"
    call("fit", project, folder)
    return folder


@pytest.fixture
def early():
    """A record of the first block: forgetting it fast ends before the chain does."""
    layout = Layout(parts=parts_of(48, 8), seed=0, batch_size=4, repeats=1)
    return int(layout.members(1)[0])


def fingerprint(folder):
    """What must not change: the objects of the vault, and what the ledger says."""
    files = {path: path.read_bytes() for path in (folder / "vault").rglob("*") if path.is_file()}
    return files, ask("status", folder)


# The commands


def test_fit_answers_with_the_run(project, tmp_path):
    answer = ask("fit", project, tmp_path / "run", "-o", "blocks=6", "--option", "repeats=2")
    assert answer.keys() == {
        "run",
        "records",
        "blocks",
        "guarantee",
        "digest",
        "accuracy",
        "seconds",
    }
    assert (answer["records"], answer["blocks"], answer["guarantee"]) == (48, 6, "exact")
    assert 0 <= answer["accuracy"] <= 1
    assert ask("status", tmp_path / "run")["digest"] == answer["digest"]


def test_fit_again_changes_nothing(project, run):
    before = fingerprint(run)
    assert ask("fit", project, run)["digest"] == before[1]["digest"]
    assert fingerprint(run) == before


def test_preview_changes_nothing(run):
    before = fingerprint(run)
    plan = ask("preview", run, "--subject", "user-3", "--record", 30)
    assert plan["records"] == [6, 7, 30]
    assert plan["blocks_replayed"] == sum(last - first + 1 for first, last in plan["segments"])
    assert "nothing was changed" in call("preview", run, "-s", "user-3").stdout
    assert fingerprint(run) == before


def test_forget_settle_audit(run):
    erasure = ask("forget", run, "--subject", "user-3", "-r", 30, "-m", "deepobliviate:epsilon=5")
    assert erasure["records"] == 3
    assert erasure["number"] == 1
    assert "model" not in erasure
    assert len(erasure["residual_memory"]) == erasure["blocks_replayed"]
    settled = ask("settle", run)
    assert settled["guarantee"] == "exact"
    audit = ask("audit", run)
    assert audit["verdict"] == "passed"
    assert audit["digest_retrained"] == settled["digest"]
    assert ask("status", run)["guarantee"] == "exact"


def test_forgetting_exactly(run):
    erasure = ask("forget", run, "-r", 5, "--method", "exact")
    assert erasure["guarantee"] == "exact"
    assert erasure["picture"] is None  # it would confirm guesses
    assert len(erasure["residual_memory"]) == erasure["blocks_replayed"]


def test_forgetting_twice_is_nothing_to_do(run):
    ask("forget", run, "-r", 5)
    again = ask("forget", run, "-r", 5)
    assert (again["number"], again["picture"], again["speedup"]) == (None, None, None)
    assert "nothing to do" in call("forget", run, "-r", 5).stdout


def test_people_read_what_machines_do(run, early):
    said = call("forget", run, "-r", early, "-m", "deepobliviate:epsilon=5").stdout
    erasure = ask("status", run)["erasures"][0]["outcome"]
    assert erasure["digest"] in said
    assert erasure["stop_reason"] in said
    assert erasure["guarantee"] in said
    status = call("status", run).stdout
    assert "deepobliviate" in status
    assert "settling would take" in status
    assert "compared, not proved" in call("audit", run).stdout
    assert "erased before" in call("preview", run, "-r", early).stdout


def test_verify(run, early):
    assert ask("verify", run, "-b", 3, "--block", 4)["reproduced"] == [3, 4]
    assert ask("verify", run)["reproduced"] == list(range(9))
    ask("forget", run, "-r", early, "-m", "deepobliviate:epsilon=50")
    assert "skipped" in call("verify", run).stdout


def test_verify_fails_on_a_changed_object(run):
    ledger = Ledger(run)
    stored = ledger.chain.entries()[3].update
    ledger.close()
    (path,) = (run / "vault").rglob(stored.key.rsplit("/", 1)[-1])
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")
    answer = ask("verify", run, code=1)
    assert not answer["passed"]
    assert "3" in answer["failed"]
    assert "block 3 failed" in call("verify", run, "-b", 3, code=1).stdout


def test_verify_fails_on_a_changed_ledger(run):
    head = ask("status", run)["journal_head"]
    assert head in call("status", run).stdout.replace("\n", "")
    assert ask("verify", run, "-b", 3, "--journal-head", head)["journal"] == []
    ask("forget", run, "-r", 5)
    ask("verify", run, "--journal-head", head)
    with contextlib.closing(sqlite3.connect(run / "ledger.sqlite")) as raw, raw:
        raw.execute("UPDATE erasures SET finished = '2020-01-01T00:00:00+00:00'")
    answer = ask("verify", run, code=1)
    assert (answer["passed"], answer["failed"]) == (False, {})
    assert answer["journal"] == ["erasures, id 1: not what was written"]
    assert "changed from outside" in call("verify", run, code=1).stdout
    assert "64 hexadecimal" in call("verify", run, "--journal-head", "x", code=2).output


def test_audit_fails_when_the_program_changed(project, run):
    # the fingerprint of the recipe cannot see into a function's body; the audit can
    project.write_text(project.read_text().replace("1.0 *", "1.5 *"))
    answer = ask("audit", run, code=1)
    assert (answer["verdict"], answer["passed"]) == ("failed", False)
    assert answer["digest"] != answer["digest_retrained"]
    assert "FAILED" in call("audit", run, code=1).stdout


def test_report_needs_no_project(project, run):
    project.unlink()
    answer = ask("report", run)
    page = Path(answer["page"])
    assert page == run / "reports" / "report.html"
    assert answer["digest"] in page.read_text()
    assert answer["records"] == 48
    assert str(page) in call("report", run).stdout


def test_report_tells_machines_the_same(run, early):
    ask("forget", run, "-r", early, "-m", "deepobliviate:epsilon=50")
    (erasure,) = ask("report", run)["erasures"]
    assert erasure["records"] == 1
    assert len(erasure["curve"]["residual_memory"]) == erasure["blocks_replayed"]


def test_forget_calibrated_shows_both_curves_and_the_check(run, early):
    words = ("-r", early, "-m", "calibrated:blocks=3")
    assert ask("preview", run, *words)["method"] == "calibrated"
    erasure = ask("forget", run, *words)
    (stitch,) = erasure["stitches"]
    assert (erasure["method"], erasure["guarantee"]) == ("calibrated", "approximate")
    assert 0 <= stitch["rho"] <= 1
    assert len(erasure["functional_memory"]) == len(erasure["control_memory"])
    assert Path(erasure["picture"]) == run / "reports" / "erasure-1.png"
    assert Path(erasure["picture"]).read_bytes().startswith(b"\x89PNG")
    assert ask("settle", run)["guarantee"] == "exact"


def test_forget_calibrated_is_told_in_words(run, early):
    said = call("forget", run, "-r", early, "-m", "calibrated:blocks=3").stdout
    for told in ("functional memory", "the same, controls", "ρ = ", "check"):
        assert told in said


def test_the_function_can_be_measured_by_any_method(run, early):
    erasure = ask("forget", run, "-r", early, "-m", "deepobliviate:epsilon=5,functional=true")
    assert len(erasure["functional_memory"]) == erasure["blocks_replayed"]


# A simulated year

HOUR_LONG = ("--training-seconds", 3600, "--state-bytes", 4e8)


def test_a_forecast_needs_neither_a_run_nor_a_project():
    answer = ask("forecast", "--rate", "20/day", "--days", 60, *HOUR_LONG)
    ways = [(each["blocks"], each["every_days"], each["is_fast"]) for each in answer["forecasts"]]
    assert ways == [
        (blocks, days, fast)
        for blocks in (100, 200, 500)
        for days in (1, 7, 28)
        for fast in (True, False)
    ]
    assert answer["requests"] == pytest.approx(1200, abs=6 * 1200**0.5)
    assert answer["recommended"] in answer["forecasts"]
    first = answer["forecasts"][0]
    # updates of 0.6 states, keyframes of 0.85 at 0, 17, 34, ... 85, 100
    assert first["disk_bytes"] == pytest.approx(4e8 * (0.6 * 100 + 0.85 * 7), rel=1e-4)
    assert answer["trades"] == []  # of one epoch there is nothing to choose
    assert first["seconds_per_request"] == first["fast_seconds"] + first["settling_seconds"]
    assert first["to_forget"]["p50"] <= first["to_forget"]["longest"]
    said = call("forecast", "--rate", "20/day", "--days", 60, *HOUR_LONG).stdout
    assert answer["recommendation"] in said
    assert "fast, exact every 28 d" in said
    assert all(note in said for note in answer["notes"])


def test_a_forecast_shows_what_keeping_epochs_in_full_costs_and_spares():
    words = ("forecast", "--rate", "1/day", "--epochs", 20, "--blocks", 25, *HOUR_LONG)
    answer = ask(*words, "--moments", 1)
    few, usual, most = answer["trades"]
    assert (few["keep"], usual["keep"], most["keep"]) == (1, 4, 20)
    assert few["disk_bytes"] < usual["disk_bytes"] < most["disk_bytes"] / 3
    assert few["fast_seconds"] < usual["fast_seconds"] < most["fast_seconds"]
    assert few["settling_seconds"] > most["settling_seconds"]
    assert answer["forecasts"][0]["disk_bytes"] == usual["disk_bytes"]
    # 100 blocks and 45 checkpoints before them with moments of 0.85 states
    plain = ask(*words)["trades"][1]["disk_bytes"]
    assert usual["disk_bytes"] - plain == pytest.approx(4e8 * 145 * 0.85, rel=1e-4)
    said = call(*words).stdout
    assert all(kept in said for kept in ("4 (usual)", "20 (all)", "goes back to the last 4"))
    assert [each["keep"] for each in ask(*words, "--keep", 6)["trades"]] == [1, 4, 6, 20]
    back = ask(*words, "--back", 2)
    assert back["forecasts"][0]["fast_seconds"] < answer["forecasts"][0]["fast_seconds"]
    assert "goes back to the last 2" in call(*words, "--back", 2).stdout


def test_a_forecast_is_the_same_for_the_same_seed():
    words = ("forecast", "--rate", "1/day", "--blocks", 50, *HOUR_LONG)
    assert ask(*words) == ask(*words, "--seed", 0) != ask(*words, "--seed", 1)


@pytest.mark.parametrize(
    ("rate", "per_day"),
    [("1/hour", 24), ("2.5/day", 2.5), ("7 / week", 1), ("365/month", 12)],
)
def test_rates_are_read_in_their_units(rate, per_day):
    answer = ask("forecast", "--rate", rate, "--days", 2, *HOUR_LONG)
    assert answer["load"]["per_day"] == pytest.approx(per_day)


def test_a_forecast_takes_times_and_sizes_from_a_run(run):
    before = fingerprint(run)
    answer = ask("forecast", "--rate", "1/month", "--run", run, "--settle", "7")
    basis = answer["basis"]
    assert {each["blocks"] for each in answer["forecasts"]} == {8}
    ledger = Ledger(run)
    entries = ledger.chain.entries()
    ledger.close()
    stored = [each.size_bytes for entry in entries for each in entry.objects]
    assert answer["forecasts"][0]["disk_bytes"] == pytest.approx(sum(stored))
    seconds = sum(each.seconds for each in entries)
    assert basis["epochs"] * basis["epoch_seconds"] == pytest.approx(seconds)
    assert basis["records"] == 48
    longer = ask("forecast", "--rate", "1/month", "--run", run, "--epochs", 10, "--keep", 3)
    assert longer["basis"]["epoch_seconds"] == basis["epoch_seconds"]
    assert [each["keep"] for each in longer["trades"]] == [1, 2, 3, 10]
    assert fingerprint(run) == before


def test_a_forecast_learns_from_the_erasures_of_a_run(run, early):
    words = ("forecast", "--rate", "1/month", "--run", run)
    assert ask(*words)["basis"]["lag"] == 5
    call("forget", run, "-r", early, "-m", "deepobliviate:epsilon=50")
    outcome = ask("status", run)["erasures"][0]["outcome"]
    basis = ask(*words)["basis"]
    ((first, last),) = outcome["segments"]
    assert basis["lag"] == last - first + 1 < 5
    block_seconds = basis["epoch_seconds"] / 8 + basis["overhead_seconds"]
    expected = basis["pass_seconds"] + basis["lag"] * block_seconds
    # block times differ; what was measured beside them is met
    assert expected == pytest.approx(outcome["seconds"], abs=basis["epoch_seconds"])
    given = ask(*words, "--lag", 3, "--block-overhead", 2, "--pass-overhead", 9)["basis"]
    assert (given["lag"], given["overhead_seconds"], given["pass_seconds"]) == (3, 2, 9)


def test_a_forecast_says_what_to_look_out_for(run):
    words = ("forecast", "--rate", "1/day", "--blocks", 10, "--training-seconds")
    assert "who asks early is late" in call(*words, 60, "--settle", "28,60").stdout
    assert "cannot keep up" in call(*words, 3 * 86400, "--settle", "1").stdout
    assert "not known" in call(*words, 60).stdout
    said = call("forecast", "--rate", "1/day", "--run", run, "--blocks", "4,8").stdout
    assert "more than the run's 48 records" in said
    assert "extrapolated to 4:" in said


def test_a_forecast_says_when_nothing_keeps_to_the_limits():
    words = ("forecast", "--rate", "1/day", "--blocks", "100,200", *HOUR_LONG)
    answer = ask(*words, "--forget-hours", 0.001)
    assert answer["recommended"] is None
    assert "none of these" in answer["recommendation"]
    assert "26.38 GB" in ask(*words, "--disk-bytes", 1e6)["recommendation"]
    late = ask(*words, "--settle", 20, "--due-days", 10, "--exact-share", 0.9)
    assert late["recommended"] is None
    assert ask(*words, "--settle", 20, "--due-days", 10, "--exact-share", 0.2)["recommended"]


def test_a_forecast_recommends_nothing_where_nobody_asks():
    words = ("forecast", "--rate", "0.001/month", "--days", 1, *HOUR_LONG)
    answer = ask(*words)
    assert answer["requests"] == 0
    assert answer["recommended"] is None
    assert "nobody asked" in call(*words).stdout


def test_an_update_may_be_smaller_than_a_state():
    words = ("forecast", "--rate", "1/day", "--blocks", 100, *HOUR_LONG)
    disk = ask(*words, "--update-ratio", 0.5)["forecasts"][0]["disk_bytes"]
    assert disk == pytest.approx(4e8 * (50 + 0.85 * 7), rel=1e-4)


def test_a_run_must_be_trained_to_be_forecast_from(project, tmp_path):
    stop = project.with_name("stop")
    stop.write_text("40")
    call("fit", project, tmp_path / "run", code=130)
    stop.unlink()
    answer = ask("forecast", "--rate", "1/day", "--run", tmp_path / "run", code=2)
    assert "trained to block" in answer["error"]


@pytest.fixture
def question(project, tmp_path):
    return ["lab", project, tmp_path / "lab", "-s", "user-3", "--seeds", 3]


def test_the_laboratory_measures_and_leaves_its_tables(question, tmp_path):
    answer = ask(*question, "-m", "deepobliviate:blocks=2")
    methods = [row["method"] for row in answer["findings"]]
    assert methods == ["nothing", "exact", "deepobliviate:blocks=2"]
    assert (answer["seeds"], answer["records"], answer["blocks"]) == (3, 2, 8)
    left = {path.name for path in (tmp_path / "lab").iterdir()}
    assert {"lab.json", "lab.csv", "gap.png", "shift.png", "cells"} <= left
    said = call(*question, "-m", "deepobliviate:blocks=2").stdout
    assert "deepobliviate:blocks=2" in said
    assert f"{answer['findings'][0]['shift']:.2f}" in said
    assert "chance alone" in said


@pytest.mark.e2e
def test_workers_of_the_laboratory_leave_the_answer_alone(question):
    # in a process of its own: what workers print goes past the test's own standard output
    done = prepared.run(["obliviate", *question, "--workers", 2, "--json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seeds"] == 3
    assert done.stderr.count("the project is being loaded") == 3


def test_an_interrupted_laboratory_goes_on(question, project, tmp_path):
    stop = project.with_name("stop")
    stop.write_text("0")  # a record that a first step may not need, but training does
    assert "goes on where this one stopped" in call(*question, code=130).stderr
    stop.unlink()
    assert ask(*question)["seeds"] == 3


# Wrong requests: exit code 2, both lines, nothing changed

WRONG = {
    "nobody": (["forget", "RUN"], "names nobody"),
    "unknown subject": (["forget", "RUN", "-s", "user-99"], "user-99"),
    "unknown record": (["forget", "RUN", "-r", "48"], "48"),
    "one of two unknown": (["forget", "RUN", "-r", "1", "-r", "48"], "48"),
    "no number": (["forget", "RUN", "-r", "one"], "--record"),
    "method": (["forget", "RUN", "-r", "1", "--method", "magic"], "magic"),
    "epsilon of exact": (["forget", "RUN", "-r", "1", "-m", "exact:epsilon=1"], "epsilon"),
    "epsilon": (["forget", "RUN", "-r", "1", "-m", "deepobliviate:epsilon=-1"], "epsilon"),
    "tolerance of exact": (
        ["preview", "RUN", "-r", "1", "-m", "exact:tolerance=1"],
        "takes no 'tolerance'",
    ),
    "tolerance": (
        ["forget", "RUN", "-r", "1", "-m", "calibrated:tolerance=0"],
        "tolerance",
    ),
    "functional of calibrated": (
        ["forget", "RUN", "-r", "1", "-m", "calibrated:functional=true"],
        "takes no 'functional'",
    ),
    "preview of nobody": (["preview", "RUN"], "names nobody"),
    "block": (["verify", "RUN", "-b", "9"], "9"),
    "no run": (["status", "NOWHERE"], "no run"),
    "url": (["status", "s3://bucket/run"], "URL"),
    "no argument": (["forget"], "RUN"),
    "command": (["frobget"], "forget"),
    "option": (["status", "RUN", "--verbose"], "--verbose"),
    "project": (["fit", "NOWHERE", "RUN"], "no project file"),
    "other blocks": (["fit", "PROJECT", "RUN", "-o", "blocks=9"], "9"),
    "recipe": (["fit", "PROJECT", "RUN", "-o", "repeats=3"], "repeats"),
    "unknown option": (["fit", "PROJECT", "NEW", "-o", "x=1"], "blocks, repeats"),
    "malformed option": (["fit", "PROJECT", "NEW", "-o", "x"], "name=value"),
    "option twice": (["fit", "PROJECT", "NEW", "-o", "x=1", "-o", "x=2"], "twice"),
    "too many blocks": (["fit", "PROJECT", "NEW", "-o", "blocks=99"], "99"),
    "rate": (["forecast", "--rate", "20", "--run", "RUN"], "20/day"),
    "negative rate": (["forecast", "--rate", "-2/day", "--run", "RUN"], "-2/day"),
    "rate of nothing": (["forecast", "--rate", "0/day", "--run", "RUN"], "greater than 0"),
    "unit": (["forecast", "--rate", "2/fortnight", "--run", "RUN"], "hour|day|week|month"),
    "no source": (["forecast", "--rate", "1/day"], "--training-seconds"),
    "two sources": (
        ["forecast", "--rate", "1/day", "--run", "RUN", "--training-seconds", "9"],
        "--run",
    ),
    "no run to forecast": (["forecast", "--rate", "1/day", "--run", "NOWHERE"], "no run"),
    "training": (["forecast", "--rate", "1/day", "--training-seconds", "-1"], "time of training"),
    "forecast blocks": (
        ["forecast", "--rate", "1/day", "--run", "RUN", "--blocks", "8,49"],
        "48 records",
    ),
    "forecast list": (["forecast", "--rate", "1/day", "--run", "RUN", "--blocks", "8,x"], "8,x"),
    "forecast half": (["forecast", "--rate", "1/day", "--run", "RUN", "--blocks", "8.5"], "whole"),
    "no blocks": (["forecast", "--rate", "1/day", "--run", "RUN", "--blocks", "0"], "blocks is 0"),
    "no epochs": (["forecast", "--rate", "1/day", "--run", "RUN", "--epochs", "0"], "epochs is 0"),
    "keep of more than there are": (
        ["forecast", "--rate", "1/day", "--run", "RUN", "--epochs", "3", "--keep", "4"],
        "keep is 4",
    ),
    "back behind what is kept": (
        ["forecast", "--rate", "1/day", "--run", "RUN", "--epochs", "9", "--keep", "2", "--back=3"],
        "back is 3",
    ),
    "moments of a run": (
        ["forecast", "--rate", "1/day", "--run", "RUN", "--moments", "2"],
        "--moments",
    ),
    "negative moments": (
        ["forecast", "--rate", "1/day", "--training-seconds", "9", "--moments", "-1"],
        "carries",
    ),
    "rhythm": (
        ["forecast", "--rate", "1/day", "--run", "RUN", "--settle", "7,-1"],
        "settlings is -1",
    ),
    "due": (["forecast", "--rate", "1/day", "--run", "RUN", "--due-days", "0"], "due"),
    "days": (["forecast", "--rate", "1/day", "--run", "RUN", "--days", "-5"], "days"),
    "too much": (["forecast", "--rate", "9999/hour", "--run", "RUN"], "too many to simulate"),
    "disk": (
        ["forecast", "--rate", "1/day", "--training-seconds", "9", "--disk-bytes", "9"],
        "state",
    ),
    "ratio": (
        ["forecast", "--rate", "1/day", "--training-seconds", "9", "--update-ratio", "0"],
        "size",
    ),
    "bench method": (["bench", "PROJECT", "--methods", "magic"], "magic"),
    "lab of nobody": (["lab", "PROJECT", "NEW"], "names nobody"),
    "lab of a stranger": (["lab", "PROJECT", "NEW", "-s", "user-99"], "user-99"),
    "lab method": (["lab", "PROJECT", "NEW", "-r", "1", "-m", "magic:x=1"], "magic"),
    "lab option": (["lab", "PROJECT", "NEW", "-r", "1", "-m", "exact:x=1"], "no 'x'"),
    "lab seeds": (["lab", "PROJECT", "NEW", "-r", "1", "--seeds", "1"], "seeds"),
    "lab workers": (["lab", "PROJECT", "NEW", "-r", "1", "--workers", "-1"], "workers"),
    "lab in a run": (["lab", "PROJECT", "RUN", "-r", "1"], "holds other files"),
    "lab project": (["lab", "NOWHERE", "NEW", "-r", "1"], "no project file"),
}


@pytest.mark.parametrize(("words", "told"), WRONG.values(), ids=WRONG)
def test_wrong_requests_change_nothing(words, told, project, run, tmp_path):
    places = {
        "RUN": run,
        "NOWHERE": tmp_path / "nowhere",
        "PROJECT": project,
        "NEW": tmp_path / "new",
    }
    words = [places.get(word, word) for word in words]
    before = fingerprint(run)
    answer = ask(*words, code=2)
    assert answer.keys() == {"error", "hint", "code"}
    assert told in answer["error"] + answer["hint"]
    result = call(*words, code=2)
    assert answer["error"] in result.stderr
    assert answer["hint"] in result.stderr
    assert "Traceback" not in result.stderr
    assert fingerprint(run) == before
    assert not (tmp_path / "new").exists()


def test_no_command_shows_the_help():
    assert "forget" in call(code=2).output
    assert "forget" in call("--help").output


# Project files

FAULTY = {
    "raises": ("\n\n1 / 0\n", 1, "line 3, raised ZeroDivisionError"),
    "exits": ("raise SystemExit(3)", 1, "SystemExit"),
    "syntax": ("def", 1, "SyntaxError"),
    "no project": ("x = 1", 2, "does not define"),
    "no Project": ("project = 3", 2, "int"),
    "function of something": ("def project(): return 3", 2, "int"),
    "function raises": ("def project():\n    raise KeyError('x')", 1, "line 2, raised KeyError"),
    "its own error": (
        "import obliviate as ob\nraise ob.errors.InvalidRecipe('a', hint='b')",
        2,
        "a",
    ),
}


@pytest.mark.parametrize(("text", "code", "told"), FAULTY.values(), ids=FAULTY)
def test_faulty_project_files_are_named(text, code, told, tmp_path):
    file = tmp_path / "faulty.py"
    file.write_text(text)
    assert told in ask("fit", file, tmp_path / "run", code=code)["error"]
    assert not (tmp_path / "run").exists()


def test_a_project_may_be_a_plain_object(project, tmp_path):
    project.write_text(project.read_text() + "\n\nproject = project(blocks='4')\n")
    assert ask("fit", project, tmp_path / "run")["blocks"] == 4
    assert "takes no options" in ask("fit", project, tmp_path / "new", "-o", "a=1", code=2)["error"]


def test_a_project_file_ends_in_py(project, tmp_path):
    text = project.rename(tmp_path / "project.txt")
    assert "no Python file" in ask("fit", text, tmp_path / "run", code=2)["error"]


def test_a_project_may_import_its_neighbours(project, tmp_path):
    (tmp_path / "neighbour_of_project.py").write_text("BLOCKS = 5\n")
    text = project.read_text() + "\n\nfrom neighbour_of_project import BLOCKS\n"
    project.write_text(text + "project = project(blocks=BLOCKS)\n")
    assert ask("fit", project, tmp_path / "run")["blocks"] == 5


def test_a_moved_project_is_asked_for(project, run, tmp_path):
    moved = project.rename(tmp_path / "moved.py")
    answer = ask("verify", run, code=2)
    assert str(project) in answer["error"]
    assert "--project" in answer["hint"]
    assert ask("status", run)["blocks_done"] == 8  # the desk needs no project
    assert ask("verify", run, "--project", moved)["passed"]
    assert ask("forget", run, "-r", 1, "--project", moved)["records"] == 1


def test_options_are_remembered(project, tmp_path):
    call("fit", project, tmp_path / "run", "-o", "repeats=3")
    assert ask("preview", tmp_path / "run", "-r", 1)["records"] == [1]


def test_a_run_made_from_python_names_no_project(data, recipe_of, tmp_path):
    ob.fit(recipe_of(), data, tmp_path / "run", blocks=4)
    assert "made from Python" in ask("settle", tmp_path / "run", code=2)["error"]


# What goes wrong on the way


def test_a_busy_run_is_no_wrong_request(run):
    ledger = Ledger(run)
    assert ledger.lease.try_taking() is None
    assert "written to" in ask("settle", run, "--wait", 0, code=1)["error"]
    ledger.lease.release()
    ledger.close()


def test_an_interrupted_fit_goes_on(project, run, tmp_path):
    stop = project.with_name("stop")
    stop.write_text("40")
    result = call("fit", project, tmp_path / "other", code=130)
    assert "goes on" in result.stderr
    stop.unlink()
    status = ask("status", tmp_path / "other")
    assert status["blocks_done"] < status["blocks"]
    assert status["guarantee"] is None
    assert "not finished" in call("status", tmp_path / "other").stdout
    assert ask("forget", tmp_path / "other", "-r", 1, "--method", "exact")["records"] == 1
    finished = ask("fit", project, tmp_path / "other")["digest"]
    assert finished == ask("forget", run, "-r", 1, "--method", "exact")["digest"]


def test_an_interrupted_forget_goes_on(project, run, early):
    ledger = Ledger(run)
    looked_at = ledger.run().samples
    ledger.close()
    last = Layout(parts=parts_of(48, 8), seed=0, batch_size=4, repeats=1).members(8).tolist()
    stop = project.with_name("stop")
    stop.write_text(str(next(record for record in last if record not in looked_at)))
    words = ("forget", run, "-r", early, "--method", "exact")
    assert "goes on" in ask(*words, code=130)["error"]
    assert "not finished" in call("status", run).stdout
    assert "not been carried out" in ask("audit", run, code=2)["error"]
    stop.unlink()
    assert ask(*words)["guarantee"] == "exact"
    assert ask("audit", run)["verdict"] == "passed"


def test_an_interrupted_audit_starts_over(project, run):
    project.with_name("stop").write_text(" ".join(map(str, range(48))))
    # looking at the data is interrupted too, whoever asks
    assert "starts over" in call("audit", run, code=130).stderr


def test_a_fault_of_our_own_is_json_too(project, run, monkeypatch):
    def broken(*_args):
        raise RuntimeError("broken")

    monkeypatch.setattr(commands, "open_run", broken)
    assert "broken" in ask("settle", run, code=1)["error"]
    result = CliRunner().invoke(app, ["settle", str(run)])
    assert isinstance(result.exception, RuntimeError)


def test_json_has_no_numbers_that_json_lacks():
    assert plain({"a": [float("inf"), float("nan"), 1.5], "b": ("x", Path("y"))}) == {
        "a": [None, None, 1.5],
        "b": ["x", "y"],
    }


# The document


COMMANDS = get_command(app)


@pytest.mark.parametrize("name", COMMANDS.list_commands(None))
def test_every_command_and_option_is_documented(name):
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"## obliviate {name}\n" in text
    assert re.search(rf"^\$ obliviate {name} ", text, re.MULTILINE)
    for parameter in COMMANDS.get_command(None, name).params:
        for option in parameter.opts:
            assert option in text or not option.startswith("--")


def test_an_extension_goes_over_all_where_it_is_told_to(project, tmp_path):
    run = tmp_path / "run"
    call("fit", project, run)
    project.write_text(project.read_text().replace("48", "60"))
    assert "over" in ask("extend", run, "--over", "old", code=2)["error"]
    said = ask("extend", run, "--over", "all", "--epochs", "2", "--blocks", "3")
    assert said["extension"]["records"] == 12
    assert said["blocks"] == 8 + 2 * 3
    affected = ask("preview", run, "--subject", "user-3")["affected"]
    assert affected[0] <= 8 < affected[1] <= 11 < affected[2]
