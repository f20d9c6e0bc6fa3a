"""Experiments as things to keep in order: moved, repeated, removed."""
