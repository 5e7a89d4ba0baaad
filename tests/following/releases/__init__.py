"""Releases of libraries that say one thing and load another, each for an environment of its own (`make releases`)."""
