"""Life of an experiment: register, run a fold, lease, provenance, archive, gc, loggers. Training: `ichx.training`."""
