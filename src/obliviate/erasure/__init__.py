"""One erasure: planned, replayed, and what came of it."""
