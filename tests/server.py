"""A real PostgreSQL server, in a temporary cluster of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

MISSING = "PostgreSQL is not installed: on Debian, `apt-get install postgresql`"


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, if it is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = str(found[-1]) if found else shutil.which("initdb")
    return Path(path).parent if path else None


def as_user() -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


@contextlib.contextmanager
def cluster():
    """The URL of a database `postgres` that is there for a while, on a socket of its own."""
    where = programs()
    assert where is not None, MISSING
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, user="postgres")
        run = [*as_user(), str(where / "initdb"), "-D", str(folder / "data"), "-A", "trust"]
        subprocess.run([*run, "--no-sync", "-U", user], check=True, capture_output=True, cwd="/")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        control = [*as_user(), str(where / "pg_ctl"), "-D", str(folder / "data"), "-w"]
        log = ["-l", str(folder / "log"), "-o", options]
        subprocess.run([*control, *log, "start"], check=True, capture_output=True, cwd="/")
        try:
            yield f"postgresql+psycopg://{user}@/postgres?host={folder}", control
        finally:
            stop = [*control, "-m", "immediate", "stop"]
            subprocess.run(stop, check=False, capture_output=True, cwd="/")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
