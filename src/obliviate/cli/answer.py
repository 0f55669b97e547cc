"""Answers: commands return them, and here is the one place that prints them and exits."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from obliviate.errors import ObliviateError, RequestError
from obliviate.terminal import printing
from obliviate.wording import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
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
    """Why a command did not do what was asked, and how to mend it."""

    error: str
    hint: str
    code: int

    def write(self, *, is_json: bool) -> None:
        """Print it: to machines on standard output, to people on standard error."""
        if is_json:
            typer.echo(json.dumps({"error": self.error, "hint": self.hint}))
            return
        typer.echo(self.error, err=True)
        if self.hint:
            typer.echo(self.hint, err=True)


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
            with aside:
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
            result = Fault(error=repr(error), hint="a fault of obliviate itself", code=FAILED)
        if isinstance(result, Answer | Fault):
            result.write(is_json=is_json)
            sys.exit(result.code)
        sys.exit(result if isinstance(result, int) else DONE)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what goes wrong with the request or the run becomes an answer too."""
        try:
            return super().invoke(ctx)
        except ObliviateError as error:
            code = WRONG if isinstance(error, RequestError) else FAILED
            return Fault(error=error.message, hint=error.hint, code=code)
        except KeyboardInterrupt:
            goes_on = ctx.invoked_subcommand in RESUMED
            said = "goes on where this one stopped" if goes_on else "starts over; nothing was lost"
            return Fault(error=f"interrupted: the same command {said}", hint="", code=INTERRUPTED)


def _usage_fault(error: Any) -> Fault:
    command = error.ctx.command_path if error.ctx else "obliviate"
    said = error.format_message() or "no command was given"
    return Fault(error=said, hint=f"see `{command} --help`", code=WRONG)
