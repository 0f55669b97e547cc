"""`python -m obliviate` is the `obliviate` command."""

from obliviate.cli import main

if __name__ == "__main__":
    main()
