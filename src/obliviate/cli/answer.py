"""Answers: commands return them, and here is the one place that prints them and exits."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import typer
from typer.core import TyperGroup

from obliviate.disk import named
from obliviate.errors import ObliviateError, RequestError, UnknownSubject
from obliviate.ledger.place import check_made
from obliviate.making import local_folder
from obliviate.terminal import printing
from obliviate.wording import plain, printable, shortened, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import RenderableType

DONE, FAILED, WRONG, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
_LONGEST_USAGE = 1000
RESUMED = ("fit", "extend", "forget", "work", "settle", "lab")
# typer brings click's exceptions along in some versions, and depends on click in others
USAGE_ERROR: type[Any] = typer.BadParameter.__bases__[0]


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
        console = printing()
        for each in self.shown:
            is_line = isinstance(each, str)
            console.print(each, markup=False, soft_wrap=is_line)


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
    said = {run: _tried(run, one) for run in dict.fromkeys(runs)}
    known = [each.code for each in said.values() if each.kind != UnknownSubject.code]
    return Answer(
        facts={"runs": [{"run": run, **each.facts} for run, each in said.items()]},
        shown=[line for run, each in said.items() for line in (f"{run}:", *each.shown)],
        code=next((code for code in known if code != DONE), DONE if known else WRONG),
    )


def _tried(run: str, one: Callable[[str], Answer]) -> Answer | Fault:
    try:
        return one(run)
    except ObliviateError as error:
        return Fault.of(error)


class Terminated(KeyboardInterrupt):
    """The process was asked to end, as by systemd, Kubernetes or Slurm."""


@contextlib.contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: what was begun is left in order."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only there can signals be caught
        return
    owner = os.getpid()

    def end(number: int, _frame: object) -> None:
        if os.getpid() != owner:  # a child that was forked: it ends as children do
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)  # a second one is not to disturb the ending
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


class Commands(TyperGroup):
    """All commands: whatever becomes of one is printed here, once, with its exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run one command and exit."""
        given = list(sys.argv[1:] if args is None else args)
        is_json = "--json" in given
        # a project file may print what it likes: standard output is for the answer alone
        aside = contextlib.redirect_stdout(sys.stderr) if is_json else contextlib.nullcontext()
        try:
            with aside, _terminated_in_order():
                result = super().main(
                    given,
                    prog_name or "obliviate",
                    complete_var,
                    standalone_mode=False,
                    windows_expand_args=windows_expand_args,
                    **extra,
                )
        except USAGE_ERROR as error:
            result = _usage_fault(error)
        except Exception as error:
            if not is_json:
                raise
            traceback.print_exc()
            hint = "a fault of obliviate itself"
            result = Fault(error=shown(error), hint=hint, kind="fault", code=FAILED)
        if isinstance(result, Answer | Fault):
            result.write(is_json=is_json)
            sys.exit(result.code)
        sys.exit(result if isinstance(result, int) else DONE)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what goes wrong with the request or the run becomes an answer too."""
        try:
            return super().invoke(ctx)
        except ObliviateError as error:
            return Fault.of(error)
        except OSError as error:
            if error.errno == errno.EPIPE:  # nobody reads what is said
                raise
            return Fault.of(named(error, error.filename or "the disk"))
        except KeyboardInterrupt as error:
            goes_on = ctx.invoked_subcommand in RESUMED
            said = "goes on where this one stopped" if goes_on else "starts over; nothing was lost"
            is_told = isinstance(error, Terminated)
            word, code = ("terminated", TERMINATED) if is_told else ("interrupted", INTERRUPTED)
            return Fault(error=f"{word}: the same command {said}", hint="", kind=word, code=code)


def _usage_fault(error: Any) -> Fault:
    command = error.ctx.command_path if error.ctx else "obliviate"
    said = error.format_message() or "no command was given"
    return Fault(
        error=shortened(said, _LONGEST_USAGE),
        hint=f"see `{command} --help`",
        kind="usage",
        code=WRONG,
    )
