"""Importing this keeps torch from warning that numpy is not installed, which nothing here needs."""

from __future__ import annotations

import warnings

warnings.filterwarnings("ignore", message="Failed to initialize NumPy", category=UserWarning)
