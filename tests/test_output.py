"""Output: what scripts and terminals get, whatever the values hold."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from obliviate import errors
from obliviate.cli import app
from obliviate.cli.output import DONE, FAILED, WRONG, Answer, Fault, over
from obliviate.cli.terminal import printing
from tests.project_file import write_project

HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e\x9b31m"


def subclasses(kind):
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


def test_every_error_has_a_code_of_its_own():
    codes = [each.code for each in subclasses(errors.ObliviateError)]
    assert len(set(codes)) == len(codes)
    assert errors.UnknownSubject("x").code == "unknown_subject"
    assert errors.RunLocked("x").code == "run_locked"


def test_an_error_is_short_and_harmless_whatever_its_value():
    error = errors.UnknownSubject(f"subject {HOSTILE} has no records", hint=HOSTILE + "x" * 10**6)
    assert "\x1b" not in str(error)
    assert "\\x1b[2J" in error.message
    assert len(str(error)) < 10_000


def test_what_is_printed_is_harmless(capsys):
    printing().print(HOSTILE)
    Answer(facts={}, shown=[f"path {HOSTILE}"]).write(is_json=False)
    Fault(error=HOSTILE, hint=HOSTILE, kind="x", code=1).write(is_json=False)
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert "\\x1b[2J" in text
        assert not set(HOSTILE) & {"\x1b", "\x07", "\u202e", "\x9b"} & set(text)


FOUND, FAULTY = Answer(facts={"records": 2}, shown=["two"]), errors.RunLocked("busy", hint="wait")
NOT_HERE, MISTYPED = errors.UnknownSubject("nobody", hint="?"), errors.InvalidOption("no", hint="?")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ([FOUND, FOUND], DONE),
        ([NOT_HERE, FOUND], DONE),
        ([NOT_HERE, NOT_HERE], WRONG),
        ([FOUND, MISTYPED, NOT_HERE], WRONG),
        ([FOUND, NOT_HERE, FAULTY], FAILED),
    ],
)
def test_several_runs_are_asked_each_for_itself(tmp_path, said, code):
    folders = [tmp_path / str(number) for number, _ in enumerate(said)]
    for folder in folders:
        folder.mkdir()
        (folder / "ledger.sqlite").touch()

    def one(run):
        found = said[int(Path(run).name)]
        if isinstance(found, errors.ObliviateError):
            raise found
        return found

    answer = over([*map(str, folders), str(folders[0])], one)
    assert answer.code == code
    assert [each["run"] for each in answer.facts["runs"]] == list(map(str, folders))
    for each, found in zip(answer.facts["runs"], said, strict=True):
        assert each.get("code") == getattr(found, "code", None) or found is FOUND


def call(*words):
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_one_person_across_many_runs(tmp_path):
    project = write_project(tmp_path)
    runs = [tmp_path / name for name in ("a", "b")]
    for run in runs:
        assert call("fit", project, run)[0] == DONE
    code, found = call("forget", *runs, "-s", "USER-3", "-m", "exact")
    assert (code, [each["records"] for each in found["runs"]]) == (DONE, [2, 2])
    code, found = call("request", *runs, "-s", "nemo")
    assert (code, {each["code"] for each in found["runs"]}) == (WRONG, {"unknown_subject"})
    code, found = call("preview", *runs, tmp_path / "none", "-s", "user-3")
    assert (code, found["code"]) == (WRONG, "run_missing")
    code, found = call("preview", *runs, "-r", "3")
    assert (code, found["code"]) == (WRONG, "invalid_option")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["preview", "RUN", "-s", "nemo"], "unknown_subject"),
        (["preview", "RUN", "-r", "999"], "unknown_record"),
        (["preview", "RUN", "-s", "user-3", "-m", "magic"], "unknown_method"),
        (["preview", "RUN", "-s", " "], "invalid_option"),
        (["preview", "RUN", "--no-such"], "usage"),
        (["preview", "NONE", "-s", "user-3"], "run_missing"),
    ],
)
def test_a_wrong_request_says_which(tmp_path_factory, words, code):
    place = tmp_path_factory.getbasetemp() / "codes"
    run = place / "run"
    if not run.exists():
        place.mkdir(exist_ok=True)
        assert call("fit", write_project(place), run)[0] == DONE
    words = [{"RUN": run, "NONE": place / "none"}.get(word, word) for word in words]
    exit_code, found = call(*words)
    assert (exit_code, found["code"]) == (WRONG, code)
    assert found["hint"]
