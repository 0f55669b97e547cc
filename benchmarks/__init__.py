"""Every figure in docs/benchmarks.md, and the code that measures it."""
