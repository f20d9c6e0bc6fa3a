"""One CT slice: DICOM bytes to header values and Hounsfield units, windows, geometry. Files are in `ichx.datasets`."""
