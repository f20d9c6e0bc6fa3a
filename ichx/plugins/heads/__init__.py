"""Networks over the slices of a series, and layers that compute many small networks at once. Plugins: `sequence`."""
