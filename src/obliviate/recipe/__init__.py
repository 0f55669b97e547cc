"""What the user declares, and all that can be wrong with it."""
