"""Output: commands return answers, and here is the one place that prints them and exits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import typer

from obliviate.cli.terminal import printing
from obliviate.disk.paths import local_folder
from obliviate.errors import ObliviateError, RequestError, UnknownSubject
from obliviate.ledger.open import check_made
from obliviate.text import plain, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console, RenderableType

DONE, FAILED, WRONG = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command has to say.

    Attributes:
        facts: For machines.
        shown: The same for people.
        code: The exit code.
    """

    facts: Mapping[str, Any]
    shown: Sequence[RenderableType] = field(default=())
    code: int = DONE
    kind: ClassVar[str] = "done"

    def write(self, *, is_json: bool) -> None:
        """Print it on standard output."""
        if is_json:
            typer.echo(json.dumps(plain(self.facts), allow_nan=False))
            return
        self._print(printing())

    def told(self) -> Answer:
        """The same in plain numbers and text, as it can be handed to another process."""
        console = printing()
        with console.capture() as captured:
            self._print(console)
        lines = captured.get().rstrip("\n")
        return replace(self, facts=plain(self.facts), shown=[lines] if lines else [])

    def _print(self, console: Console) -> None:
        for each in self.shown:
            console.print(each, markup=False, soft_wrap=isinstance(each, str))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a command did not do what was asked, and how to mend it.

    Attributes:
        error: What happened.
        hint: How to mend it.
        kind: The error's code: a word that scripts can rely on.
        code: The exit code.
    """

    error: str
    hint: str
    kind: str
    code: int

    @classmethod
    def of(cls, error: ObliviateError) -> Fault:
        """What an error says."""
        code = WRONG if isinstance(error, RequestError) else FAILED
        return cls(error=error.message, hint=error.hint, kind=error.code, code=code)

    @property
    def facts(self) -> Mapping[str, str]:
        """For machines."""
        return {"error": self.error, "hint": self.hint, "code": self.kind}

    @property
    def shown(self) -> list[str]:
        """For people."""
        return [self.error, *([self.hint] if self.hint else [])]

    def write(self, *, is_json: bool) -> None:
        """Print it: to machines on standard output, to people on standard error."""
        if is_json:
            typer.echo(json.dumps(self.facts))
            return
        for line in self.shown:
            typer.echo(printable(line), err=True)


def over(runs: Sequence[str], one: Callable[[str], Answer]) -> Answer:
    """The answer of a command that is asked of a run, or of several: each for itself.

    Args:
        runs: Their folders.
        one: Asks one.

    Returns:
        Of several, what each said. The exit code is that of the first that failed, if any did. That
        a person is not in some of the runs is no failure, unless it is in none.
    """
    if len(runs) == 1:
        return one(runs[0])
    for run in runs:
        check_made(local_folder(run))  # a slip is told before anything is done
    return together({run: tried(run, one) for run in dict.fromkeys(runs)})


def together(answers: Mapping[str, Answer | Fault]) -> Answer:
    """The answer of a command that was asked of several runs.

    Args:
        answers: What each said, by its folder.
    """
    codes = [each.code for each in answers.values() if each.kind != UnknownSubject.code]
    return Answer(
        facts={"runs": [{"run": run, **each.facts} for run, each in answers.items()]},
        shown=[line for run, each in answers.items() for line in (f"{run}:", *each.shown)],
        code=next((code for code in codes if code != DONE), DONE if codes else WRONG),
    )


def tried(run: str, one: Callable[[str], Answer]) -> Answer | Fault:
    """What a run says, or why it cannot."""
    try:
        return one(run)
    except ObliviateError as error:
        return Fault.of(error)
