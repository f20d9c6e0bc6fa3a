"""Who listens to a run: its log, MLflow, TensorBoard."""
