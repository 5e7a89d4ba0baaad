"""Checkpoint + chosen keys → file: a plan, streaming writers, atomic replacement.

`planning` decides, `layout` puts the decision into files and bytes, `execute` writes and proves the result.
"""
