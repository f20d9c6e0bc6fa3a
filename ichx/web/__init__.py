"""The web app of `ichx ui`: pages about experiments, images and their predictions, for a browser on this machine.

A page module parses a request, calls functions of the packages below and renders a template. Reports that need no
server: `ichx.report`.
"""
