"""Every method keeps the contract; one of another package works as ours do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

import obliviate as ob
from obliviate.cli import app
from obliviate.errors import InvalidOption, RunDamaged, UnknownMethod
from obliviate.methods import registry
from obliviate.methods.registry import label_of, method_of
from obliviate.testing import MethodContract
from tests.project_file import write_project

PACKAGE = Path(__file__).with_name("package_with_method")


@pytest.fixture
def another_package(monkeypatch):
    """A distribution with methods of its own is installed."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    registry.METHODS.refresh()
    yield
    registry.METHODS.refresh()


class TestExact(MethodContract):
    method = ob.Exact()


class TestDeepObliviate(MethodContract):
    method = ob.DeepObliviate(epsilon=9.0)


class TestCalibrated(MethodContract):
    method = ob.Calibrated(tolerance=100.0)


@pytest.mark.usefixtures("another_package")
class TestOfAnotherPackage(MethodContract):
    @property
    def method(self):
        return method_of("halfway:taken=0.5")


@pytest.mark.usefixtures("another_package")
def test_a_package_forgets_with_a_method_of_its_own(tmp_path):
    runner = CliRunner()
    project, folder = str(write_project(tmp_path)), str(tmp_path / "run")
    for words in (
        ["fit", project, folder],
        ["forget", folder, "-r", "1", "-m", "halfway:taken=0.5"],
        ["request", folder, "-r", "2", "-m", "halfway"],
        ["work", folder, "--all"],
        ["status", folder],
    ):
        result = runner.invoke(app, words)
        assert result.exit_code == 0, result.output


@pytest.mark.usefixtures("another_package")
def test_what_cannot_be_used_is_named_and_the_rest_works():
    assert registry.names() == [
        "exact",
        "deepobliviate",
        "calibrated",
        "halfway",
        "broken",
        "absent",
    ]
    assert method_of("exact") == ob.Exact()  # whoever announces that name too
    faults = registry.faults()
    assert "no Method" in faults["broken"]
    assert "cannot be imported" in faults["absent"]
    assert "that name is taken" in faults["exact"]
    assert set(faults) == {"broken", "absent", "exact"}
    with pytest.raises(UnknownMethod, match="obliviate-halfway announces a method 'exact'"):
        method_of("nothing")


def test_a_method_that_is_no_longer_installed_is_asked_for(another_package, tmp_path):
    project, folder = str(write_project(tmp_path)), str(tmp_path / "run")
    runner = CliRunner()
    runner.invoke(app, ["fit", project, folder])
    runner.invoke(app, ["request", folder, "-r", "2", "-m", "halfway"])
    registry.METHODS.refresh()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("obliviate.registry.entry_points", lambda group: [])
        result = runner.invoke(app, ["queue", folder])
        assert result.exit_code == 1
        assert "install that again" in result.output


def test_a_class_is_registered_for_this_process(monkeypatch, recipe_of, data, tmp_path):
    monkeypatch.setattr(registry.METHODS, "_registered", {})

    @dataclass(frozen=True, kw_only=True)
    class Mine(ob.DeepObliviate):
        name: ClassVar[str] = "mine"

    run = ob.fit(recipe_of(), data, tmp_path / "run", blocks=8)
    before = run.status()
    with pytest.raises(UnknownMethod, match="no method 'mine'"):
        run.forget(records=[1], method=Mine(epsilon=9.0))
    assert run.status() == before
    assert registry.register(Mine) is Mine
    assert run.forget(records=[1], method="mine:epsilon=9").method == "mine"
    assert run.forget(records=[2], method=Mine(epsilon=9.0)).method == "mine"
    for kind in (ob.Exact, int, type("Mine", (ob.DeepObliviate,), {"name": "mine"})):
        with pytest.raises(InvalidOption):
            registry.register(kind)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exact", ob.Exact()),
        ("exact:functional=true", ob.Exact(functional=True)),
        ("deepobliviate:epsilon=0.5,blocks=3", ob.DeepObliviate(epsilon=0.5, blocks=3)),
        ("calibrated:blocks=none", ob.Calibrated()),
    ],
)
def test_options_are_written_alike_everywhere(text, expected):
    assert method_of(text) == expected
    assert method_of(label_of(expected)) == expected


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("", UnknownMethod),
        ("magic", UnknownMethod),
        (7, UnknownMethod),
        pytest.param(10**5000, UnknownMethod, id="too long to be written"),
        (None, UnknownMethod),
        ("exact:epsilon=1", InvalidOption),
        ("deepobliviate:epsilon=much", InvalidOption),
        ("deepobliviate:epsilon=-1", InvalidOption),
        ("deepobliviate:=", InvalidOption),
    ],
)
def test_what_is_no_method_is_refused(method, error):
    with pytest.raises(error):
        method_of(method)


@pytest.mark.parametrize("options", [{}, {"name": "magic"}, {"name": "exact", "x": 1}, [1]])
def test_a_ledger_that_keeps_no_method_is_damaged(options):
    with pytest.raises(RunDamaged):
        registry.method_from(options)
