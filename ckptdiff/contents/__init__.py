"""A checkpoint's bytes: one owner of where they lie and how they are read."""
