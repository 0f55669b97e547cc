"""Commands in processes of their own that need not import everything anew.

A server process imports the package once and forks for each command: a process of its own, with its
own memory, folder, environment, streams and exit code, at a fiftieth of the cost of a fresh
interpreter. What tests interpreter or shell itself (`tests/e2e/test_commands.py`) starts real ones.
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

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "obliviate.cli",
        "obliviate.cli.demo",
        "obliviate.lab.bench",
        "matplotlib.pyplot",
        "sklearn.linear_model",
    ]
)


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
    words = [str(word) for word in words]
    place = str(cwd or Path.cwd())
    variables = dict(os.environ) | dict(environment)
    with tempfile.TemporaryDirectory() as streams:
        process = PROCESSES.Process(
            target=carry_out, args=(words, place, variables, streams, strict)
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        told = [Path(streams, name).read_text(encoding="utf-8") for name in ("out", "err")]
        return subprocess.CompletedProcess(words, process.exitcode, *told)


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
        sys.argv = arguments
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).parent.absolute())
        runpy.run_path(arguments[0], run_name="__main__")
