"""The command line itself: it finds a command, runs it, and prints its answer or its fault."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from obliviate.cli.output import DONE, FAILED, WRONG, Answer, Fault
from obliviate.disk.paths import named
from obliviate.errors import ObliviateError
from obliviate.launch import is_speaking
from obliviate.text import shortened, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INTERRUPTED, TERMINATED = 130, 143
_LONGEST_USAGE = 1000
_BY_ALL_RANKS = (
    "bench",
    "demo",
    "export",
    "extend",
    "fit",
    "forget",
    "lab",
    "settle",
    "verify",
    "work",
)
"""What several ranks carry out together, or refuse together. All else is carried out by rank 0:
it would be done once by each of them."""

_RESUMED = ("fit", "extend", "forget", "work", "settle", "lab", "bench")
# typer brings click's exceptions along in some versions, and depends on click in others
_USAGE_ERROR: type[Any] = typer.BadParameter.__bases__[0]
_ROOMS = {
    "audit": "commands",
    "bench": "bench",
    "demo": "demo",
    "destroy-key": "commands",
    "estimate": "estimate",
    "export": "commands",
    "extend": "commands",
    "fit": "commands",
    "forecast": "forecast",
    "forget": "commands",
    "lab": "laboratory",
    "lift": "requests",
    "make-key": "storage",
    "preview": "requests",
    "queue": "requests",
    "refuse": "requests",
    "report": "commands",
    "request": "requests",
    "settle": "commands",
    "status": "requests",
    "vault": "storage",
    "verify": "commands",
    "withdraw": "requests",
    "work": "work",
}
"""Where each command lives. Its module is imported when it is called: what registers a request does
not wait for torch."""


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
        words = list(sys.argv[1:] if args is None else args)
        is_json = "--json" in words
        # a project file may print what it likes: standard output is for the answer alone
        is_alone = is_json or "--csv" in words
        aside = contextlib.redirect_stdout(sys.stderr) if is_alone else contextlib.nullcontext()
        try:
            with aside, _terminated_in_order():
                result = super().main(
                    words,
                    prog_name or "obliviate",
                    complete_var,
                    standalone_mode=False,
                    windows_expand_args=windows_expand_args,
                    **extra,
                )
        except _USAGE_ERROR as error:
            result = _usage_fault(error)
        except Exception as error:
            if not is_json:
                raise
            traceback.print_exc()
            hint = "a fault of obliviate itself"
            result = Fault(error=shown(error), hint=hint, kind="fault", code=FAILED)
        if isinstance(result, Answer | Fault):
            if is_speaking():
                result.write(is_json=is_json)
            sys.exit(result.code)
        sys.exit(result if isinstance(result, int) else DONE)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """The names of all commands."""
        return list(_ROOMS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """A command; its module is imported for it, and no other."""
        if cmd_name not in _ROOMS:
            return None
        room = import_module(f"obliviate.cli.{_ROOMS[cmd_name]}")
        return typer.main.get_group(room.app).commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called; a slip is told with what it may have been meant to be.

        Where rank 0 carries it out for all, the others have nothing to do.
        """
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except _USAGE_ERROR as error:
            guesses = " or ".join(map(repr, get_close_matches(args[0], _ROOMS)))
            error.message += f" Did you mean {guesses}?" if guesses else ""
            raise
        if name not in _BY_ALL_RANKS and not is_speaking():
            raise typer.Exit(DONE)
        return name, command, rest

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
            goes_on = ctx.invoked_subcommand in _RESUMED
            ending = (
                "goes on where this one stopped" if goes_on else "starts over; nothing was lost"
            )
            is_told = isinstance(error, Terminated)
            word, code = ("terminated", TERMINATED) if is_told else ("interrupted", INTERRUPTED)
            return Fault(error=f"{word}: the same command {ending}", hint="", kind=word, code=code)


def _usage_fault(error: Any) -> Fault:
    command = error.ctx.command_path if error.ctx else "obliviate"
    message = error.format_message() or "no command was given"
    return Fault(
        error=shortened(message, _LONGEST_USAGE),
        hint=f"see `{command} --help`",
        kind="usage",
        code=WRONG,
    )


app = typer.Typer(
    name="obliviate",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def obliviate() -> None:
    """Make trained PyTorch models forget people."""
