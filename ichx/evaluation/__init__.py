"""Predictions to numbers: the metric, blending, out-of-fold tables, submissions."""
