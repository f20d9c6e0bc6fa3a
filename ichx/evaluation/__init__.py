"""Predictions to numbers: the metric, scores, blends, audits, submissions. Predicting is in `ichx.inference`."""
