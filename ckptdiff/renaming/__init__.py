"""Rename rules and tensor operations: the language, and how they are applied. Torch-free."""
