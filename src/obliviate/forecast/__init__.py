"""A year of requests, and what it would cost."""
