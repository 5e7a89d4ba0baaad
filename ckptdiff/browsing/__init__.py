"""A checkpoint to walk around in, on a terminal."""
