"""Results for readers, reviewers and hospitals: model cards, figures for papers, DICOM structured reports.

The numbers come from `ichx.evaluation` and `ichx.inference`; HTML pages are in `ichx.report`.
"""
