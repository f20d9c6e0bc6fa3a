"""Loggers of a run: the run log, MLflow, TensorBoard. The hooks they implement are in `ichx.training.callbacks`."""
