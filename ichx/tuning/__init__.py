"""Tuning: Optuna over a recipe. A trial is an experiment, and runs as a job of an engine."""
