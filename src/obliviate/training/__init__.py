"""(state, block) -> state, with the same bits every time."""
