"""Synthetic head CT studies: anatomy, hemorrhages, scanners, DICOM files. Reading DICOM is in `ichx.ct`."""
