"""Datasets: sources, formats, catalog, labels, folds, masks, versions. Decoded pixels are in `ichx.cache`."""
