"""Commands in processes of their own that need not import everything anew.

A server process imports the package once and forks for each command: a process of its own, with its
own memory, folder, environment, streams and exit code, at a hundredth of the cost of a fresh
interpreter. `PROCESSES` is for tests that kill. What tests interpreter or shell itself
(`tests/e2e/test_commands.py`) starts real ones.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch

IMPORTED = [
    "torch",
    "torch._dynamo",  # what the first optimizer of a process imports: as long as torch itself
    "sqlite3",
    "pytest",
    "obliviate.cli.bench",
    "obliviate.cli.commands",
    "obliviate.cli.demo",
    "obliviate.cli.estimate",
    "obliviate.cli.forecast",
    "obliviate.cli.laboratory",
    "obliviate.cli.requests",
    "obliviate.cli.storage",
    "obliviate.evidence",
    "obliviate.lab.bench",
    "matplotlib.pyplot",
    "sklearn.datasets",
    "sklearn.linear_model",
]
"""Modules of installed packages alone: the server may start in any folder, and skips the rest."""
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(IMPORTED)  # once: there is one server, and the last call decides


class Prepared:
    """A command that runs in a process of its own, as `subprocess.Popen` would show it."""

    def __init__(self, words, *, cwd=None, environment=(), strict=False):
        """Start it; see `run`."""
        self.words = [str(word) for word in words]
        self._streams = tempfile.TemporaryDirectory()
        given = (
            self.words,
            str(cwd or Path.cwd()),
            dict(os.environ) | dict(environment),
            self._streams.name,
            strict,
        )
        self._process = PROCESSES.Process(target=carry_out, args=given)
        self._process.start()

    @property
    def returncode(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def communicate(self, timeout=300):
        """Wait for the end; the text of both streams."""
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.words, timeout)
        with self._streams as streams:
            return tuple(Path(streams, name).read_text(encoding="utf-8") for name in ("out", "err"))


def run(words, *, cwd=None, environment=(), strict=False, timeout=300):
    """Carry out a command, `obliviate ...` or `python script ...` or `python -c code ...`.

    Args:
        words: The command's words.
        cwd: The folder it runs in. The caller's when left out.
        environment: Variables beside the caller's own.
        strict: Whether every warning is an error, as with `python -W error`.
        timeout: Seconds.

    Returns:
        What `subprocess.run` would: exit code and text of both streams.
    """
    process = Prepared(words, cwd=cwd, environment=environment, strict=strict)
    told = process.communicate(timeout)
    return subprocess.CompletedProcess(process.words, process.returncode, *told)


def carry_out(words, place, variables, streams, strict):
    """What the forked process does."""
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(Path(streams, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.chdir(place)
    os.environ.clear()
    os.environ.update(variables)
    warnings.resetwarnings()
    if strict:
        warnings.simplefilter("error")
    torch.set_num_threads(1)  # a process that has several threads cannot be forked further
    program, *arguments = words
    if Path(program).name == "obliviate":
        sys.argv = words
        from obliviate.cli import main

        main()
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).parent.absolute())
        runpy.run_path(arguments[0], run_name="__main__")
