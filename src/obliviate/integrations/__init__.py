"""Training loops of other libraries, taken over as they stand: each imports its own framework."""
