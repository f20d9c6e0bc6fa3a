"""Training: recipe, data and callbacks to weights and logits. The store and the workspace are in `ichx.experiments`."""
