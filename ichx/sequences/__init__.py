"""Networks over the slices of a series: data, batches, augmentation, losses. The networks are in `ichx.plugins.heads`.

The training loop is that of `ichx.training`, whose rows are here windows of series.
"""
