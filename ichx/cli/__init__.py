"""The command line: one module per command or command group; each parses, calls one library function and renders.

The library itself is in the packages below; none of them imports this one.
"""
