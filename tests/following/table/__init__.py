"""The loaders that people call, held against what they really do. `python -m tests.following.table` runs them all."""
