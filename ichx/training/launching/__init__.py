"""Runs in several processes: folds side by side, and processes that train one fold together."""
