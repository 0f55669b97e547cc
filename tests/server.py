"""A real PostgreSQL server, in a temporary cluster of its own."""

from __future__ import annotations

import contextlib
import getpass
import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

MISSING = "PostgreSQL is not installed: on Debian, `apt-get install postgresql`"


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, if it is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = str(found[-1]) if found else shutil.which("initdb")
    return Path(path).parent if path else None


def as_user() -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


class Server:
    """A server that runs, and can be made to fail.

    Attributes:
        folder: Where its socket and its data are.
        user: Its superuser.
    """

    def __init__(self, folder: Path, user: str, programs: Path) -> None:
        self.folder, self.user, self._programs = folder, user, programs
        self._names = itertools.count(1)

    def url(self, database: str = "postgres", user: str | None = None) -> str:
        """The URL of one of its databases."""
        return f"postgresql+psycopg://{user or self.user}@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start it; after a crash it recovers by itself."""
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off"
        self._control("-l", str(self.folder / "log"), "-o", options, "start")

    def crash(self) -> None:
        """End it at once, as when the power fails."""
        self._control("-m", "immediate", "stop")

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run some SQL, as superuser."""
        with psycopg.connect(
            host=str(self.folder), user=self.user, dbname=database, autocommit=True
        ) as connection:
            for statement in statements:
                connection.execute(statement)

    def database(self) -> str:
        """The name of a new and empty database."""
        name = f"d{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def schema(self) -> str:
        """The URL of a new and empty schema: faster than a database, and as good for most."""
        name = f"s{next(self._names)}"
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url()}&options=-csearch_path%3D{name}"

    def _control(self, *words: str) -> None:
        control = [*as_user(), str(self._programs / "pg_ctl"), "-D", str(self.folder / "data")]
        subprocess.run([*control, "-w", *words], check=True, capture_output=True, cwd="/")


@contextlib.contextmanager
def serving():
    """A server that is there for a while, on a socket of its own."""
    where = programs()
    assert where is not None, MISSING
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, user="postgres")
        run = [*as_user(), str(where / "initdb"), "-D", str(folder / "data"), "-A", "trust"]
        subprocess.run([*run, "--no-sync", "-U", user], check=True, capture_output=True, cwd="/")
        server = Server(folder, user, where)
        server.start()
        try:
            yield server
        finally:
            server.crash()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
