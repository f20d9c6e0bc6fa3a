"""Formats: public datasets under the names, folders and columns of their publishers. Their files are read elsewhere.

A format names what `ichx.datasets.add` scans, joins and masks; packages add formats through the entry-point group
`ichx.formats`.
"""
