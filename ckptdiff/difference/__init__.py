"""Checkpoint × Checkpoint → Difference; Checkpoint × lock → Verification."""
