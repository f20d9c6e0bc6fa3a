"""Trained folds applied: predict files, evaluate another dataset, export models. Training is in `ichx.training`."""
