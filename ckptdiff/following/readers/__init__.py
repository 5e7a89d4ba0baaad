"""The functions by which code reads files, so that what they give is known."""
