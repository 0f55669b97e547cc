"""The chain P_0 .. P_K: read, checked, made again, and what of it is kept."""
