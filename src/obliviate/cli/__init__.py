"""The `obliviate` command."""

from obliviate.cli import storage as _storage  # noqa: F401 - its commands join the others
from obliviate.cli.commands import app


def main() -> None:
    """Run the command line and exit: 0 done, 1 it failed, 2 the request was wrong."""
    app()


__all__ = ["app", "main"]
