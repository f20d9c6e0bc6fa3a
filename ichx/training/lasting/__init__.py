"""What makes a run outlast its process: checkpoints, the lease on a fold, stopping in good order."""
