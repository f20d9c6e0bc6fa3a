"""What trained folds are used for: new files, other datasets, other programs."""
