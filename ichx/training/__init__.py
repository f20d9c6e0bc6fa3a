"""Experiments to weights and predictions."""
