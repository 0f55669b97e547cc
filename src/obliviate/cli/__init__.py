"""The `obliviate` command."""

from obliviate.cli.app import app


def main() -> None:
    """Run the command line and exit: 0 done, 1 it failed, 2 the request was wrong, 130 stopped."""
    app()


__all__ = ["app", "main"]
