"""The HU cache: slices decoded once, stored in shards at one size. Batches are in `ichx.loading`."""
