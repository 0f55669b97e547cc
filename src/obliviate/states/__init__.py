"""Arithmetic on states; nothing here reads or writes."""
