"""ichx: from head-CT slices to a tracked, blended prediction of intracranial hemorrhage."""

__version__ = "0.1.0"
