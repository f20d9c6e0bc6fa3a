"""Batches of cached slices: sampling, augmentation, loader. Windows are applied on the device, in `ichx.training`."""
